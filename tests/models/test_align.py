"""ALIGN's batch norms are folded into its convolutions."""

import torch

from jobs.models import align, loading
from jobs.models.weights import DEMO_WEIGHTS


def test_folding_batch_norms_changes_no_embedding() -> None:
    plain = loading.load_model(loading.transformers().AlignModel, str(DEMO_WEIGHTS / "align"), "demo")
    folded = loading.load_model(loading.transformers().AlignModel, str(DEMO_WEIGHTS / "align"), "demo")
    align.fold_batch_norms(folded.vision_model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules()) > 10
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        a, b = (model.get_image_features(pixel_values=pixels).pooler_output for model in (plain, folded))
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999999
