"""Describe the models of a job. Descriptions are cached on this machine: importing torch and loading takes seconds.

A cached description is valid for the same files, the same section of the recipe, and the same code of this package
and its libraries. Each actor still loads its checkpoints completely.
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
_CACHE_KIND = "specs"


def describe_models(config: JobConfig, storage: Storage) -> tuple[Spec, ...]:
    """Resolve each checkpoint, check that it is complete, and describe it. Raises CheckpointError, ConfigError."""
    specs: list[Spec] = []
    for kind, section in config.models:
        if section:
            pinned, folder = weights.resolve_weights(kind, section.weights, section.revision, storage)
            specs.append(describe_cached(kind, config, pinned, folder))
    for spec in specs:
        size = f"{spec.canvas.size[0]}x{spec.canvas.size[1]}"
        message = f"{spec.kind}: {spec.weights.name}, {spec.metadata['architecture']}, {size} pixels"
        if schema.ZERO_SHOT_LABELS in spec.column_names:
            message += f", {len(spec.labels):,} zero-shot labels"
        log.say("model", message, weights=spec.weights.name, revision=spec.weights.revision)
    return tuple(specs)


def describe_cached(kind: str, config: JobConfig, weights: Weights, folder: str) -> Spec:
    """Describe one model from the cache, or from its checkpoint in `folder`. Raises CheckpointError, ConfigError."""
    section = getattr(config.models, kind)
    if getattr(section, "zero_shot", None):  # its labels may be in a file, which may have changed
        return _describe(kind, config, weights, folder)
    key = f"{kind}, {section!r}, {weights.revision}, {config.output.embedding_dtype}, {_code_version()}"
    if data := cache.get(_CACHE_KIND, key):
        spec: Spec = pickle.loads(data)
    else:
        spec = _describe(kind, config, weights, folder)
        without_credentials = replace(spec, weights=replace(weights, storage=Storage()))
        cache.put(_CACHE_KIND, key, pickle.dumps(without_credentials))
    return replace(spec, weights=weights)


def _describe(kind: str, config: JobConfig, weights: Weights, folder: str) -> Spec:
    from jobs.models import dual, vit  # these import torch, which takes seconds

    if kind == "vit" and config.models.vit:
        return vit.describe(config.models.vit, weights, folder)
    assert config.models.align
    return dual.describe(config.models.align, weights, folder, config.output.embedding_dtype)


@functools.cache
def _code_version() -> str:
    """A digest of this package's code, and the versions of the libraries that a description depends on."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return ", ".join([digest.hexdigest(), *(f"{name} {version(name)}" for name in _LIBRARIES)])
