"""Which job an output belongs to: `_job.yaml`, the recipe with everything pinned, and its fingerprint.

The pinned recipe can be run again as it stands. What only says where or how fast a job runs is not part of what
it is: `fetch`, `compute`, `limits`, `storage`, and the output's path and file size may change between two runs.
"""

import hashlib
import json
import os
from itertools import zip_longest
from typing import Any

import yaml

from jobs import schema
from jobs.config import JobConfig, SourceConfig
from jobs.config.explain import shown
from jobs.errors import ConfigError, OutputError
from jobs.models import Spec
from jobs.output.layout import JOB, ROWS
from jobs.recipe import load_recipe
from jobs.storage import Storage
from jobs.storage.paths import absolute, join_path, listed_by

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast: labels may be tens of thousands
_LONG = 20  # entries of a list that an error shows whole
_FREE = {"fetch": ..., "compute": ..., "limits": ..., "storage": ..., "output": {"path", "rows_per_file"}}


def pin_config(config: JobConfig, source: SourceConfig, specs: tuple[Spec, ...]) -> JobConfig:
    """The recipe with its source decided and each model's revision pinned: a hub commit, or a digest of its files."""
    tree = with_absolute_paths(config).model_dump() | {"source": source.model_dump()}
    for spec in specs:
        tree["models"][spec.kind]["revision"] = spec.weights.revision
        if zero_shot := tree["models"][spec.kind].get("zero_shot"):
            zero_shot.update(labels=spec.labels)  # themselves, whatever becomes of the file they came from
    return JobConfig.of(tree)


def with_absolute_paths(config: JobConfig) -> JobConfig:
    """With local paths from the root, so that it means the same from another folder."""
    tree = config.model_dump()
    path = config.source.path
    if path is not None:
        tree["source"]["path"] = absolute(path) if isinstance(path, str) else tuple(absolute(each) for each in path)
    tree["output"]["path"] = absolute(config.output.path)
    for model in filter(None, tree["models"].values()):
        if model["weights"] != "demo" and os.path.isdir(os.path.expanduser(model["weights"])):
            model["weights"] = absolute(model["weights"])
    return JobConfig.of(tree)


def fingerprint(pinned: JobConfig) -> str:
    canonical = json.dumps([schema.SCHEMA_VERSION, _identity(pinned)], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def claim_output(storage: Storage, pinned: JobConfig) -> None:
    """Make the output this job's, or prove that it is. Raises OutputError with the difference."""
    path = join_path(pinned.output.path, JOB)
    if _unclaimed(storage, pinned.output.path):
        storage.put(path, pinned.to_yaml().encode())
    else:
        _refuse_another(pinned.output.path, _identity(_read(storage, path)), _identity(pinned))


def check_output_matches(storage: Storage, config: JobConfig, source: SourceConfig) -> None:
    """What `claim_output` would refuse, as far as it shows before any model is looked at: all but revisions."""
    if _unclaimed(storage, config.output.path):
        return
    theirs, ours = _read(storage, join_path(config.output.path, JOB)), pin_config(config, source, ())
    _refuse_another(config.output.path, _identity(_unpinned(theirs)), _identity(_unpinned(ours)))


def check_output(storage: Storage, config: JobConfig) -> None:
    """The output can be written, and is not where the input is looked for. Raises OutputError, StorageError."""
    results = join_path(absolute(config.output.path), ROWS, "part.parquet")
    for path in config.source.paths:
        if listed_by(path, results):
            raise OutputError(
                f"{config.output.path}: the output lies inside the source {path}",
                "results would be read as input: name a folder outside it",
            )
    probe = join_path(config.output.path, "_probe")
    storage.put(probe, b"")
    storage.delete(probe)


def load_job(name: str) -> tuple[Storage, JobConfig]:
    """The output's own recipe, with the output where it was found. Raises OutputError, ConfigError."""
    storage, output = reach(name)
    path = join_path(output, JOB)
    if not storage.exists(path):
        raise OutputError(f"{path}: not there, so {output} is not the output of a job", "coyo-jobs run makes one")
    config = _read(storage, path)
    # The output may have been moved since: it is where it was found, and is reached as it was there.
    found = {"output": config.output.model_copy(update={"path": absolute(output)})}
    config = config.model_copy(update=found if name == output else found | {"storage": storage.config})
    return Storage(config.storage), config


def reach(name: str) -> tuple[Storage, str]:
    """Where an output is, named by its folder or by its job's recipe, which knows its store. Raises ConfigError."""
    if not name.endswith((".yaml", ".yml")):
        return Storage(), name
    config = load_recipe(name)
    return Storage(config.storage), config.output.path


def _unclaimed(storage: Storage, output: str) -> bool:
    if storage.exists(join_path(output, JOB)):
        return False
    if storage.tree(join_path(output, ROWS)):
        raise OutputError(f"{output}: has {ROWS}/ but no {JOB}", "give the job an output folder of its own")
    return True


def _refuse_another(output: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if differences := _different("", theirs, ours):
        raise OutputError(
            f"{output}: belongs to a different job: {'; '.join(differences)}",
            "give this job an output folder of its own, or set these back",
        )


def _unpinned(config: JobConfig) -> JobConfig:
    tree = config.model_dump()
    for model in filter(None, tree["models"].values()):
        model["revision"] = None
    return JobConfig.of(tree)


def _read(storage: Storage, path: str) -> JobConfig:
    try:
        return JobConfig.of(yaml.load(storage.read(path), Loader=_LOADER))
    except (ConfigError, yaml.YAMLError, ValueError) as exc:
        raise OutputError(
            f"{path}: cannot be read by this version ({exc})", "give the job another output folder"
        ) from exc


def _identity(config: JobConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_FREE)  # type: ignore[arg-type]


def _different(at: str, theirs: Any, ours: Any) -> list[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = list(dict.fromkeys([*theirs, *ours]))
        return [line for key in keys for line in _different(f"{at}.{key}".strip("."), theirs.get(key), ours.get(key))]
    if theirs == ours:
        return []
    if isinstance(theirs, list) and isinstance(ours, list) and max(len(theirs), len(ours)) > _LONG:
        pairs = enumerate(zip_longest(theirs, ours), 1)
        number, was, now = next((number, was, now) for number, (was, now) in pairs if was != now)
        return [f"{at} had {len(theirs)} entries, now {len(ours)}; number {number} was {was!r}, now {now!r}"]
    return [f"{at} was {shown(theirs)}, now {shown(ours)}"]
