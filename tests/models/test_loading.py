"""A checkpoint loads completely or not at all; the hub's old layout gives the same numbers as the new one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.errors import CheckpointError
from jobs.models import loading
from tests.support.checkpoints import column, copy, edit, hub_align, hub_vit, load, noise, rewrite, spec

TEXTS = ["a red circle", "blue star, small", None]
HEAD = "classifier__weight"


@pytest.mark.parametrize("kind", ["vit", "align"])
def test_the_hubs_old_layout_gives_the_same_numbers(kind: str, tmp_path: Path) -> None:
    """What kakaobrain's repositories hold: pickles, v4's key names, a class v5 deleted, vocab.txt only."""
    old = {"vit": hub_vit, "align": hub_align}[kind](tmp_path / kind)
    described, demo = spec(kind, old), spec(kind)
    assert (described.canvas, described.scale, described.labels) == (demo.canvas, demo.scale, demo.labels)
    theirs, ours = load(kind, old)(noise(3), [*TEXTS]), load(kind)(noise(3), [*TEXTS])
    for name in ours.columns:
        assert column(theirs, name) == column(ours, name)


def test_the_old_layout_is_as_old_as_it_should_be(tmp_path: Path) -> None:
    """Guards the twin: were it to look new, the test above would prove nothing."""
    processor = json.loads((hub_vit(tmp_path / "vit") / "preprocessor_config.json").read_text())
    assert processor["feature_extractor_type"] == "ViTFeatureExtractor"
    assert "image_processor_type" not in processor
    names = {path.name for path in hub_align(tmp_path / "align").iterdir()}
    assert names == {
        "config.json",
        "preprocessor_config.json",
        "pytorch_model.bin",
        "tokenizer_config.json",
        "vocab.txt",
    }
    state = torch.load(tmp_path / "vit" / "pytorch_model.bin")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in state


def missing_head(to: Path) -> Path:
    return rewrite(copy("vit", to), **{HEAD: None})


def headless(to: Path) -> Path:
    """A ViTModel, saved by transformers, under its own architecture."""
    transformers = loading.transformers()
    copy("vit", to)
    transformers.ViTModel.from_pretrained(to).save_pretrained(to)
    return to


def headless_without_name(to: Path) -> Path:
    return edit(headless(to), "config.json", architectures=None)


def damaged(file: str, data: bytes) -> Callable[[Path], Path]:
    def make(to: Path) -> Path:
        (copy("vit", to) / file).write_bytes(data)
        return to

    return make


def truncated(to: Path) -> Path:
    weights = copy("vit", to) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return to


def pickled(data: bytes) -> Callable[[Path], Path]:
    def make(to: Path) -> Path:
        (copy("vit", to) / "model.safetensors").unlink()
        (to / "pytorch_model.bin").write_bytes(data)
        return to

    return make


def without(file: str) -> Callable[[Path], Path]:
    def make(to: Path) -> Path:
        (copy("vit", to) / file).unlink()
        return to

    return make


def configured(**changes: object) -> Callable[[Path], Path]:
    return lambda to: edit(copy("vit", to), "config.json", **changes)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
GAPS = {f"{i + 1}": f"class {i}" for i in range(64)}
BROKEN = {
    "a missing tensor": (missing_head, "missing keys: classifier.weight"),
    "no head": (headless, "wants an image classifier, this is a ViTModel"),
    "no head and no architecture": (headless_without_name, "missing keys: classifier.bias, classifier.weight"),
    "random bytes": (damaged("model.safetensors", b"abc" * 100), "does not load"),
    "an empty file": (damaged("model.safetensors", b""), "does not load"),
    "a Git LFS pointer": (damaged("model.safetensors", LFS), "does not load"),
    "a truncated file": (truncated, "does not load"),
    "no weights": (without("model.safetensors"), "no file named"),
    "a pickled LFS pointer": (pickled(LFS), "damaged"),
    "an empty pickle": (pickled(b""), "does not load"),
    "a cut zip": (pickled(b"PK\x03\x04" + b"x" * 50), "does not load"),
    "html for a config": (damaged("config.json", b"<html>"), "config.json"),
    "a config of another kind": (damaged("config.json", b"[]"), "does not load"),
    "an unknown architecture": (configured(model_type="zork"), "zork"),
    "html for a preprocessor": (damaged("preprocessor_config.json", b"<html>"), "preprocessor_config.json"),
    "no preprocessor": (without("preprocessor_config.json"), "image processor"),
    "another width": (configured(hidden_size=48), "does not load|mismatched"),
    "a tensor of another shape": (
        configured(id2label={"0": "a"}, label2id={}),
        r"mismatched keys: classifier.bias is \(64,\) and should be \(1,\), classifier.weight is",
    ),
    "junk for a pickle": (pickled(b"abc" * 100), "does not load"),
    "a config of wrong types": (configured(hidden_size="wide"), "hidden_size"),
    "a package that is not installed": (configured(model_type="timm_wrapper"), "timm"),
    "labels that do not start at 0": (configured(id2label=GAPS, label2id={}), "names class 64"),
}


@pytest.mark.parametrize(("make", "says"), BROKEN.values(), ids=BROKEN)
def test_a_checkpoint_that_is_not_whole_is_one_clear_error(
    make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    """transformers only logs a line and goes on with random weights."""
    folder = make(tmp_path / "here")
    with pytest.raises(CheckpointError, match=says) as caught:
        spec("vit", folder)
    assert caught.value.message.startswith(f"{folder}: ")
    assert "\n" not in caught.value.message


def test_an_align_checkpoint_is_no_classifier_and_a_classifier_no_align(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wants an image classifier, this is a AlignModel"):
        spec("vit", copy("align", tmp_path / "align"))
    with pytest.raises(CheckpointError, match="wants a dual encoder of images and texts, this is a vit"):
        spec("align", copy("vit", tmp_path / "vit"))


def test_an_align_tower_that_is_missing_is_never_random(tmp_path: Path) -> None:
    folder = rewrite(copy("align", tmp_path / "align"), text_projection__weight=None, text_projection__bias=None)
    with pytest.raises(CheckpointError, match=r"missing keys: text_projection\.bias, text_projection\.weight"):
        spec("align", folder)


def test_an_align_checkpoint_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    """transformers makes a tokenizer of five pieces: every text would be [UNK], and have the same embedding."""
    folder = copy("align", tmp_path / "align")
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json, no vocab\.txt"):
        spec("align", folder)


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    """A token beyond the embedding table is an IndexError in the actor, or on a GPU the end of its process."""
    folder = hub_align(tmp_path / "align")
    with (folder / "vocab.txt").open("a") as vocabulary:
        vocabulary.write("zork\n")
    with pytest.raises(CheckpointError, match="its tokenizer has"):
        spec("align", folder)


def test_unexpected_tensors_are_ignored(tmp_path: Path) -> None:
    folder = copy("align", tmp_path / "align")
    rewrite(folder, temperature=torch.tensor(0.07))
    assert np.isclose(spec("align", folder).metadata["temperature"], 0.07)
