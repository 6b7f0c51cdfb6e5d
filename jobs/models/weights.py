"""Resolve a checkpoint's name to a folder on this machine, once per machine, and pin what it was.

`demo` is embedded; a local folder is used as it is; s3:// is copied to the cache; anything else is a hub id.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from jobs.errors import CheckpointError
from jobs.storage import Storage

DEMO_WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"  # the embedded checkpoints
CACHE = Path("~/.cache/coyo-jobs/weights").expanduser()
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_DIGEST = "sha256:"  # what a revision starts with where it is no commit of the hub


@dataclass(frozen=True)
class Weights:
    """A checkpoint as the recipe names it, and what that turned out to be: a hub commit, or a digest of the files."""

    name: str
    revision: str
    storage: Storage


def pin(kind: str, name: str, revision: str | None, storage: Storage) -> tuple[Weights, str]:
    """The pinned weights and their folder here. Raises CheckpointError."""
    if _is_hub(name):
        folder, commit = _from_hub(name, revision)
        return Weights(name, commit, storage), folder
    folder = _fetch(kind, name, storage)
    digest = _digest(folder, name)
    if revision not in (None, digest):
        raise CheckpointError(
            f"{name}: its files are {digest}, but the recipe pins revision {revision}",
            "a folder has no branches or tags; revision: null takes it as it is",
        )
    return Weights(name, digest, storage), folder


def folder_of(kind: str, weights: Weights) -> str:
    """Where pinned weights lie on this machine, fetched if they are not here yet. Raises CheckpointError.

    A folder may be another one here, or may have changed since it was pinned: its files are read again.
    """
    if not weights.revision.startswith(_DIGEST):
        return _from_hub(weights.name, weights.revision)[0]
    folder = _fetch(kind, weights.name, weights.storage)
    digest = _digest(folder, weights.name)
    if digest != weights.revision:
        raise CheckpointError(
            f"{weights.name}: its files are {digest} on this machine, but {weights.revision} where the run began",
            "put the same files on every machine, or on s3://, and run the same command again",
        )
    return folder


def _is_hub(name: str) -> bool:
    return name != "demo" and "://" not in name and not name.startswith(("/", ".", "~")) and not os.path.isdir(name)


def _fetch(kind: str, name: str, storage: Storage) -> str:
    if name == "demo":
        return str(DEMO_WEIGHTS / kind)
    if "://" not in name:
        return os.path.expanduser(name)
    listed = storage.find(name)
    if not listed:
        raise CheckpointError(f"{name}: nothing there", "check the bucket and the folder's name")
    listing = hashlib.sha256(repr([(entry.path, entry.size, entry.etag) for entry in listed]).encode()).hexdigest()[:16]
    target = CACHE / f"{kind}-{listing}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # a node's actors start at once: one fetches, the others wait for it
        if not target.is_dir():
            partial = f"{target}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            storage.fetch_folder(name, partial)
            os.rename(partial, target)
    return str(target)


def _from_hub(name: str, revision: str | None) -> tuple[str, str]:
    """The snapshot's folder and its commit; a cached copy serves when the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=[*_SMALL, "model*.safetensors"])
        if not list(Path(folder).glob("model*.safetensors")):  # the old layout, as align-base has it
            folder = snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin*"])
    except HFValidationError as exc:
        raise CheckpointError(f"{name}: neither a folder that exists nor a hub id", str(exc)) from exc
    except LocalEntryNotFoundError as exc:
        hint = "name a local or s3:// folder with the checkpoint, or weights: demo to try without one"
        raise CheckpointError(
            f"{name}: the hub cannot be reached, and no copy is cached on this machine", hint
        ) from exc
    except HfHubHTTPError as exc:
        what = f"{name} at {revision}" if revision else name
        hint = "check the id and revision; for a private model log in with: hf auth login"
        raise CheckpointError(f"{what}: the hub refuses it ({type(exc).__name__})", hint) from exc
    return folder, os.path.basename(folder)


def _digest(folder: str, name: str) -> str:
    """sha256 over the names and contents of a checkpoint's files. Raises CheckpointError when it is none."""
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise CheckpointError(
            f"{name}: no config.json there, so it is no checkpoint", "name a hub id or a saved folder"
        )
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{_DIGEST}{digest.hexdigest()[:32]}"
