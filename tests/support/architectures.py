"""Checkpoints of other architectures: random weights, a few kilobytes each, saved as their makers save theirs."""

import importlib
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.models import loading

SIDE = {"height": 32, "width": 32}
WORDS = ["a", "photo", "of", "this", "is", "red", "blue", "star", "circle"]
LETTERS = string.ascii_lowercase + "0123456789.,"
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 64}  # fmt: skip
NARROW = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SQUASHED = ("vit", "ViT", {"size": SIDE})
CROPPED = ("bit", "Bit", {"size": {"shortest_edge": 36}, "crop_size": SIDE})
CONVNEXT = ("convnext", "ConvNext", {"size": {"shortest_edge": 32}})
CLIP = ("clip", "CLIP", {"size": {"shortest_edge": 32}, "crop_size": SIDE})
SIGLIP = ("siglip", "Siglip", {"size": SIDE})
NAFLEX = ("siglip2", "Siglip2", {"patch_size": 8, "max_num_patches": 16})

Processor = tuple[str, str, dict[str, Any]]


def processor(module: str, family: str, settings: dict[str, Any]) -> Any:
    loading.transformers()
    pil = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(pil, f"{family}ImageProcessorPil")(**settings)


def model(name: str, head: str, **config: Any) -> Any:
    transformers = loading.transformers()
    torch.manual_seed(0)
    return getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**config)).eval()


# --- classifiers: name -> (family, config, processor)

PLAIN = {name: value for name, value in VISION.items() if name != "intermediate_size"}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
B_MINUS = {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any], Processor]] = {
    "vit-b": ("ViT", VISION, SQUASHED),
    "deit": ("DeiT", VISION, ("deit", "DeiT", {"size": {"height": 36, "width": 36}, "crop_size": SIDE})),
    "beit": ("Beit", VISION, ("beit", "Beit", {"size": SIDE})),
    "dinov2": ("Dinov2", PLAIN, CROPPED),
    "dinov2 with registers": ("Dinov2WithRegisters", PLAIN, CROPPED),
    "convnext": ("ConvNext", STAGES, CONVNEXT),
    "convnextv2": ("ConvNextV2", STAGES, CONVNEXT),
    "swin": ("Swin", SWIN, SQUASHED),
    "swinv2": ("Swinv2", SWIN, SQUASHED),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, CONVNEXT),
    "efficientnet": ("EfficientNet", B_MINUS, ("efficientnet", "EfficientNet", {"size": SIDE})),
    "siglip": ("Siglip", {"vision_config": VISION, "text_config": {**NARROW, "vocab_size": 9}}, SIGLIP),
}


def classifier(name: str, to: Path, **changes: Any) -> Path:
    family, config, images = CLASSIFIERS[name]
    labels = {i: f"class {i}" for i in range(7)}
    model(family, "ForImageClassification", **{**config, "id2label": labels, **changes}).save_pretrained(to)
    processor(*images).save_pretrained(to)
    return to


# --- tokenizers, each with a vocabulary of WORDS or LETTERS


def bert(folder: Path) -> Any:
    pieces = [*WORDS, *(c for c in LETTERS if c not in WORDS), *(f"##{c}" for c in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]))
    return loading.transformers().BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512)


def byte_pairs(folder: Path) -> Any:
    pieces = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    numbered = {piece: i for i, piece in enumerate(pieces)}
    return loading.transformers().CLIPTokenizer(vocab=numbered, merges=[], model_max_length=77)


def unigrams(folder: Path) -> Any:
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*special, *((f"▁{word}", -2.0) for word in WORDS), *((c, -5.0) for c in LETTERS), ("▁", -5.0)]
    return loading.transformers().XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=512)


def gemma(folder: Path) -> Any:
    """As the SigLIP 2 checkpoints of one size have it: right padding, and no limit of its own."""
    numbered = {piece: i for i, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS])}
    return loading.transformers().GemmaTokenizer(vocab=numbered, merges=[], padding_side="right")


def sentencepiece(folder: Path) -> Any:
    """As the first SigLIP checkpoints have it: spiece.model, and no attention mask."""
    import io

    import pytest

    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model, lines = io.BytesIO(), [" ".join(WORDS), "a red star", "this is a photo of a blue circle"] * 20
    ends = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    trainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=40, hard_vocab_limit=False,
                  minloglevel=2, **ends)  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = loading.transformers().SiglipTokenizer
    return tokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"])


# --- dual encoders: name -> (tokenizer, family, its text config, the rest of its config, processor)

TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PROJECTED = {"vision_config": VISION, "projection_dim": 16}
ONE_WIDTH = {**TEXT, "hidden_size": 32, "projection_size": 32, "max_position_embeddings": 64}
ENCODERS: dict[str, tuple[Callable[[Path], Any], str, dict[str, Any], dict[str, Any], Processor]] = {
    "clip": (byte_pairs, "CLIP", {**TEXT, "max_position_embeddings": 77}, PROJECTED, CLIP),
    "clip of before 2023": (byte_pairs, "CLIP", {**TEXT, "eos_token_id": 2}, PROJECTED, CLIP),
    "metaclip 2": (unigrams, "MetaClip2", {**TEXT, "max_position_embeddings": 77}, PROJECTED, CLIP),
    "altclip": (unigrams, "AltCLIP", {**TEXT, "max_position_embeddings": 514, "project_dim": 20}, PROJECTED, CLIP),
    "chinese clip": (
        bert, "ChineseCLIP", TEXT, PROJECTED, ("chinese_clip", "ChineseCLIP", {"size": SIDE, "do_center_crop": False}),
    ),
    "siglip": (sentencepiece, "Siglip", ONE_WIDTH, {"vision_config": VISION}, SIGLIP),
    "siglip 2": (gemma, "Siglip", ONE_WIDTH, {"vision_config": VISION}, SIGLIP),
    "siglip 2 naflex": (
        gemma, "Siglip2", ONE_WIDTH, {"vision_config": {**NARROW, "num_patches": 16, "patch_size": 8}}, NAFLEX,
    ),
    "aimv2": (byte_pairs, "Aimv2", TEXT, PROJECTED, CLIP),
    "flava": (
        bert, "Flava", TEXT, {"image_config": VISION, "multimodal_config": NARROW, "hidden_size": 32}, SQUASHED,
    ),
}  # fmt: skip


def encoder(name: str, to: Path) -> Path:
    """With weights large enough that texts and pictures differ in their embeddings."""
    tokenizers, family, text, rest, images = ENCODERS[name]
    to.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers(to)
    tokenizer.save_pretrained(to)
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {key: value for key, value in ids.items() if value is not None}
    made = model(family, "Model", text_config={"vocab_size": len(tokenizer), **known, **text}, **rest)
    with torch.no_grad():
        for parameter in (each for each in made.parameters() if each.ndim > 1):
            parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 2 else 0.2)
        for key, trained in {"logit_scale": 2.5, "logit_bias": -3.0}.items():
            if hasattr(made, key):
                getattr(made, key).fill_(trained)
    made.save_pretrained(to)
    processor(*images).save_pretrained(to)
    return to
