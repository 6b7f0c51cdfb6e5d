"""Tiny checkpoints, made from the two embedded ones: whole, damaged, and laid out as the hub has the published ones."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from jobs.config import AlignConfig, VitConfig
from jobs.models import Model, Results, Spec, dual, vit
from jobs.models.batching import FixedSize, InferenceOptions
from jobs.models.weights import DEMO_WEIGHTS as DEMO
from jobs.models.weights import resolve_weights
from jobs.storage import Storage

torch.set_num_threads(1)  # these networks are so small that a second thread only costs


def copy(kind: str, to: Path) -> Path:
    """The embedded checkpoint in a folder of the test's own."""
    return Path(shutil.copytree(DEMO / kind, to))


def edit(folder: Path, file: str, **changes: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def rewrite(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The same checkpoint with some tensors replaced, or left out where None; `__` in a name stands for a dot."""
    state = tensors(folder)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        del state[key]
        if tensor is not None:
            state[key] = tensor
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def hub_vit(to: Path) -> Path:
    """As kakaobrain/vit-large-patch16-384: pickled weights under v4's names, a class name that v5 deleted."""
    folder = _pickled(copy("vit", to), tensors(DEMO / "vit"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    del settings["image_processor_type"]
    settings |= {"feature_extractor_type": "ViTFeatureExtractor", "size": 64}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def hub_align(to: Path) -> Path:
    """As kakaobrain/align-base: pickled weights with v4's position_ids, vocab.txt only, a separate preprocessor."""
    state = tensors(DEMO / "align") | {"text_model.embeddings.position_ids": torch.arange(64)[None]}
    folder = _pickled(copy("align", to), state)
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    processor["processor_class"] = "AlignProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer"})
    )
    for name in ("processor_config.json", "tokenizer.json"):
        (folder / name).unlink()
    return folder


def _pickled(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def spec(kind: str, name: str | Path = "demo", dtype: str = "float32", **options: Any) -> Spec:
    """The checkpoint as a job's plan describes it."""
    weights, folder = resolve_weights(kind, str(name), None, Storage())
    if kind == "vit":
        return vit.describe(VitConfig(weights=str(name), **options), weights, folder)
    return dual.describe(AlignConfig(weights=str(name), **options), weights, folder, dtype)


def load(kind: str, name: str | Path = "demo", dtype: str = "float32", **options: Any) -> Model:
    """The checkpoint as an actor holds it."""
    return held(spec(kind, name, dtype, **options), DEMO / kind if name == "demo" else Path(name))


def held(described: Spec, folder: Path) -> Model:
    return on(described, folder, InferenceOptions(torch.device("cpu"), torch.float32, FixedSize()))


def on(described: Spec, folder: Path, device: InferenceOptions) -> Model:
    loaded = vit.ImageClassifier if described.kind == "vit" else dual.DualEncoder
    return loaded(described, str(folder), device)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    """uint8 [count, 64, 64, 3]: canvases as both embedded models eat them, coarse enough to differ."""
    coarse = torch.randint(0, 256, (count, 4, 4, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)


def column(results: Results, name: str) -> list[Any]:
    return cast(list[Any], results.columns[name].to_pylist())
