"""Checkpoints with random weights: the architectures and canvases of the real ones, in two sizes."""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.corpus import WORDS
from jobs.config import AlignConfig, VitConfig
from jobs.models import Spec, dual, vit
from jobs.models.weights import resolve_weights
from jobs.storage import Storage

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "vit": {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768},
        "patch": 32,
        "vision": {"width_coefficient": 0.5, "depth_coefficient": 0.4},
        "text": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    },
    "full": {
        "vit": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        "patch": 16,
        "vision": {"width_coefficient": 2.0, "depth_coefficient": 3.1},
        "text": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    },
}


def write(folder: Path, size: str) -> Path:
    """Write `vit` and `align` below the folder, for from_pretrained, unless they exist. Return the folder."""
    if not (folder / "align" / "config.json").exists():
        torch.manual_seed(0)
        _vit(folder / "vit", SIZES[size])
        _align(folder / "align", SIZES[size])
    return folder


def _vit(folder: Path, size: dict[str, Any]) -> None:
    config = transformers.ViTConfig(image_size=384, patch_size=size["patch"], num_labels=1000, **size["vit"])
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    vit_processor().save_pretrained(folder)


def _align(folder: Path, size: dict[str, Any]) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    text = {"vocab_size": 30522, "max_position_embeddings": 512, **size["text"]}
    width = round(640 * size["vision"]["width_coefficient"] / 2.0 / 8) * 8
    vision = {"image_size": 289, "hidden_dim": width * 4, **size["vision"]}
    model = transformers.AlignModel(
        transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=_dim(vision))
    )
    for module in model.vision_model.modules():  # with the default initialisation the signal vanishes
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    _calibrate(model)
    model.save_pretrained(folder)
    align_processor().save_pretrained(folder)


def vit_processor() -> transformers.ViTImageProcessorPil:
    """Return the image processor of kakaobrain/vit-large-patch16-384."""
    return transformers.ViTImageProcessorPil(size={"height": 384, "width": 384})


def align_processor() -> transformers.EfficientNetImageProcessorPil:
    """Return the image processor of kakaobrain/align-base."""
    return transformers.EfficientNetImageProcessorPil(
        size={"height": 346, "width": 346}, crop_size={"height": 289, "width": 289}, do_center_crop=True, resample=2,
        rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False, include_top=False,
    )  # fmt: skip


def specs(weights: Path | None, dtype: str = "float32") -> tuple[Spec, Spec]:
    """Describe `vit` and `align` below a folder, or the demo's checkpoints."""
    names = {kind: str(weights / kind) if weights else "demo" for kind in ("vit", "align")}
    pinned = {kind: resolve_weights(kind, name, None, Storage()) for kind, name in names.items()}
    return (
        vit.describe(VitConfig(weights=names["vit"]), *pinned["vit"]),
        dual.describe(AlignConfig(weights=names["align"]), *pinned["align"], dtype),
    )


def _dim(vision: dict[str, Any]) -> int:
    from transformers.models.align.modeling_align import AlignVisionConfig, round_filters

    last = AlignVisionConfig(**vision)
    return int(round_filters(last, last.out_channels[-1]))


@torch.no_grad()
def _calibrate(model: Any) -> None:
    """Set the running statistics of batch norm to those of noise."""
    norms = [module for module in model.vision_model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.vision_model.train()
    model.get_image_features(pixel_values=torch.randn(4, 3, 289, 289))
    model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    args = parser.parse_args()
    print(write(args.folder, args.size))
