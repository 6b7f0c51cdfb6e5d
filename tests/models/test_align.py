"""ALIGN's batch norms are folded into its convolutions, and its last pooling is a mean."""

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


def test_the_last_pooling_is_a_mean_and_no_window() -> None:
    """Compiled, a window of 2,560 x 2,560 is walked: that one kernel took 95 ms of 126 on an H200."""
    plain, quick = (
        loading.load_model(loading.transformers().AlignModel, str(DEMO_WEIGHTS / "align"), "demo") for _ in range(2)
    )
    align.optimise_for_inference(quick)
    assert not any(isinstance(module, torch.nn.AvgPool2d) for module in quick.modules())
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        a, b = (model.get_image_features(pixel_values=pixels).pooler_output for model in (plain, quick))
    assert a.shape == b.shape
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999999
