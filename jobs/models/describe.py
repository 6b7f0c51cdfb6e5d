"""What a checkpoint was found to be, remembered on this machine: to import torch and load it again takes seconds.

A proof holds for the same files, the same section of the recipe and the same code, this package's and its libraries'.
The actors load every checkpoint completely in any case.
"""

import functools
import hashlib
import pickle
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from jobs import log, schema
from jobs.config import JobConfig
from jobs.models import Spec, cache, weights
from jobs.models.weights import Weights
from jobs.storage import Storage

_LIBRARIES = ("transformers", "torch", "tokenizers", "pillow", "numpy", "pyarrow")


def describe_models(config: JobConfig, storage: Storage) -> tuple[Spec, ...]:
    """Resolve each checkpoint and prove it whole, before any cluster is used. Raises CheckpointError."""
    specs: list[Spec] = []
    for kind, section in config.models:
        if section:
            pinned, folder = weights.pin(kind, section.weights, section.revision, storage)
            specs.append(describe_cached(kind, config, pinned, folder))
    for spec in specs:
        said = f"{spec.weights.name}, {spec.about['architecture']}, {spec.canvas.size[0]}x{spec.canvas.size[1]} pixels"
        if schema.ZERO_SHOT_LABELS in spec.columns:
            said += f", {len(spec.labels):,} zero-shot labels"
        log.say("model", f"{spec.kind}: {said}", weights=spec.weights.name, revision=spec.weights.revision)
    return tuple(specs)


def describe_cached(kind: str, config: JobConfig, weights: Weights, folder: str) -> Spec:
    """What the model is, of a recipe's section of this kind: as found before, or now. Raises CheckpointError."""
    section = getattr(config.models, kind)
    if getattr(section, "zero_shot", None):  # its labels may be a file, and that may have changed
        return _describe(kind, config, weights, folder)
    key = f"{kind}, {section!r}, {weights.revision}, {config.output.embedding_dtype}, {_code()}"
    if held := cache.recall("proofs", key):
        spec: Spec = pickle.loads(held)
    else:
        spec = _describe(kind, config, weights, folder)
        nowhere = replace(spec, weights=replace(weights, storage=Storage()))  # how to reach a bucket is not for a cache
        cache.remember("proofs", key, pickle.dumps(nowhere))
    return replace(spec, weights=weights)


def _describe(kind: str, config: JobConfig, weights: Weights, folder: str) -> Spec:
    from jobs.models import dual, vit  # seconds, and torch

    if kind == "vit" and config.models.vit:
        return vit.describe(config.models.vit, weights, folder)
    assert config.models.align
    return dual.describe(config.models.align, weights, folder, config.output.embedding_dtype)


@functools.cache
def _code() -> str:
    """All that a description depends on beside its input."""
    ours = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        ours.update(path.read_bytes())
    return ", ".join([ours.hexdigest(), *(f"{name} {version(name)}" for name in _LIBRARIES)])
