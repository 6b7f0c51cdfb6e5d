"""Which job an output belongs to: `_job.yaml` holds the pinned recipe, and the fingerprint is its digest.

The pinned recipe can be run again unchanged. Options that change only where or how fast a job runs are not part of
its identity: `fetch`, `compute`, `limits`, `storage`, `output.path` and `output.rows_per_file` may change between runs.
"""

import hashlib
import json
import os
from itertools import zip_longest
from typing import Any

import yaml

from jobs import schema
from jobs.config import JobConfig, SourceConfig
from jobs.config.explain import short_repr
from jobs.errors import ConfigError, OutputError
from jobs.models import Spec
from jobs.output.layout import JOB, ROWS
from jobs.recipe import load_recipe
from jobs.storage import Storage
from jobs.storage.paths import absolute, join_path, matches

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast; there may be tens of thousands of labels
_MAX_SHOWN = 20  # an error prints a list of up to this many entries completely
_NOT_IDENTITY = {"fetch": ..., "compute": ..., "limits": ..., "storage": ..., "output": {"path", "rows_per_file"}}


def pin_config(config: JobConfig, source: SourceConfig, specs: tuple[Spec, ...]) -> JobConfig:
    """Return the recipe with absolute paths, the detected source, and each model's revision pinned.

    A revision is a hub commit or a digest of the checkpoint's files.
    """
    tree = with_absolute_paths(config).model_dump() | {"source": source.model_dump()}
    for spec in specs:
        tree["models"][spec.kind]["revision"] = spec.weights.revision
        if zero_shot := tree["models"][spec.kind].get("zero_shot"):
            zero_shot.update(labels=spec.labels)  # inline, because the file of labels may change
    return JobConfig.from_dict(tree)


def with_absolute_paths(config: JobConfig) -> JobConfig:
    """Make local paths absolute, so that the recipe means the same in every working directory."""
    tree = config.model_dump()
    path = config.source.path
    if path is not None:
        tree["source"]["path"] = absolute(path) if isinstance(path, str) else tuple(absolute(item) for item in path)
    tree["output"]["path"] = absolute(config.output.path)
    for model in filter(None, tree["models"].values()):
        if model["weights"] != "demo" and os.path.isdir(os.path.expanduser(model["weights"])):
            model["weights"] = absolute(model["weights"])
    return JobConfig.from_dict(tree)


def fingerprint(pinned: JobConfig) -> str:
    """16 hex digits of a sha256 over the identity of a pinned recipe and the schema version."""
    canonical = json.dumps([schema.SCHEMA_VERSION, _identity(pinned)], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def claim_output(storage: Storage, pinned: JobConfig) -> None:
    """Write `_job.yaml` to a new output, or check that the existing one matches. Raises OutputError if it differs."""
    path = join_path(pinned.output.path, JOB)
    if _is_unclaimed(storage, pinned.output.path):
        storage.put(path, pinned.to_yaml().encode())
    else:
        _check_same(pinned.output.path, _identity(_load(storage, path)), _identity(pinned))


def check_output_matches(storage: Storage, config: JobConfig, source: SourceConfig) -> None:
    """Check what `claim_output` checks, without resolving models: everything but their revisions.

    Raises OutputError.
    """
    if _is_unclaimed(storage, config.output.path):
        return
    stored, current = _load(storage, join_path(config.output.path, JOB)), pin_config(config, source, ())
    _check_same(config.output.path, _identity(_unpinned(stored)), _identity(_unpinned(current)))


def check_output(storage: Storage, config: JobConfig) -> None:
    """Check that the output can be written and is outside the source. Raises OutputError, StorageError."""
    results = join_path(absolute(config.output.path), ROWS, "part.parquet")
    for path in config.source.paths:
        if matches(path, results):
            raise OutputError(
                f"{config.output.path}: the output lies inside the source {path}",
                "name a folder outside the source, or results would be read as input",
            )
    probe = join_path(config.output.path, "_probe")
    storage.put(probe, b"")
    storage.delete(probe)


def load_job(name: str) -> tuple[Storage, JobConfig]:
    """Load the pinned recipe of an output; `name` is the output's folder or its recipe.

    The returned recipe has the output's current path, and the storage options with which it was reached. Raises
    OutputError, ConfigError.
    """
    storage, output = resolve_output(name)
    path = join_path(output, JOB)
    if not storage.exists(path):
        raise OutputError(f"{path}: not found, so {output} is not the output of a job", "coyo-jobs run creates one")
    config = _load(storage, path)
    # The output may have been moved since, even to another store.
    current = {"output": config.output.model_copy(update={"path": absolute(output)})}
    config = config.model_copy(update=current if name == output else current | {"storage": storage.config})
    return Storage(config.storage), config


def resolve_output(name: str) -> tuple[Storage, str]:
    """Find an output by its folder or by its job's recipe, which has the storage options. Raises ConfigError."""
    if not name.endswith((".yaml", ".yml")):
        return Storage(), name
    config = load_recipe(name)
    return Storage(config.storage), config.output.path


def _is_unclaimed(storage: Storage, output: str) -> bool:
    if storage.exists(join_path(output, JOB)):
        return False
    if storage.list_files(join_path(output, ROWS)):
        raise OutputError(f"{output}: has {ROWS}/ but no {JOB}", "give the job an output folder of its own")
    return True


def _check_same(output: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
    if differences := _differences("", stored, current):
        raise OutputError(
            f"{output}: belongs to a different job: {'; '.join(differences)}",
            "give this job an output folder of its own, or restore these values",
        )


def _unpinned(config: JobConfig) -> JobConfig:
    tree = config.model_dump()
    for model in filter(None, tree["models"].values()):
        model["revision"] = None
    return JobConfig.from_dict(tree)


def _load(storage: Storage, path: str) -> JobConfig:
    try:
        return JobConfig.from_dict(yaml.load(storage.read(path), Loader=_LOADER))
    except (ConfigError, yaml.YAMLError, ValueError) as exc:
        raise OutputError(
            f"{path}: cannot be read by this version ({exc})", "give the job another output folder"
        ) from exc


def _identity(config: JobConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_NOT_IDENTITY)  # type: ignore[arg-type]


def _differences(path: str, old: Any, new: Any) -> list[str]:
    """One line for each value that differs below `path`, e.g. `models.vit.top_k was 5, now 3`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [line for key in keys for line in _differences(f"{path}.{key}".strip("."), old.get(key), new.get(key))]
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list) and max(len(old), len(new)) > _MAX_SHOWN:
        pairs = enumerate(zip_longest(old, new), 1)
        number, was, now = next((number, was, now) for number, (was, now) in pairs if was != now)
        return [f"{path} had {len(old)} entries, now {len(new)}; number {number} was {was!r}, now {now!r}"]
    return [f"{path} was {short_repr(old)}, now {short_repr(new)}"]
