"""Resolve a checkpoint's name to a folder on this machine, and pin its revision.

`demo` is embedded in the package. A local folder is used in place. An s3:// folder is copied to the cache, once per
machine. Anything else is an id on the Hugging Face hub.
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
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_DIGEST_PREFIX = "sha256:"  # of a revision that is a digest of files, not a commit on the hub


@dataclass(frozen=True)
class Weights:
    """A checkpoint's name in the recipe, and its pinned revision: a hub commit, or a digest of its files."""

    name: str
    revision: str
    storage: Storage


def resolve_weights(kind: str, name: str, revision: str | None, storage: Storage) -> tuple[Weights, str]:
    """Fetch a checkpoint if needed; return its pinned weights and its local folder. Raises CheckpointError."""
    if _is_hub(name):
        folder, commit = _from_hub(name, revision)
        return Weights(name, commit, storage), folder
    folder = _fetch(kind, name, storage)
    digest = _digest(folder, name)
    if revision not in (None, digest):
        raise CheckpointError(
            f"{name}: its files are {digest}, but the recipe pins revision {revision}",
            "a folder has no branches or tags; revision: null accepts the files as they are",
        )
    return Weights(name, digest, storage), folder


def local_folder(kind: str, weights: Weights) -> str:
    """Return the folder of pinned weights on this machine; fetch them if they are missing.

    The digest of a folder is checked again: the same path may hold other files on this machine, or have changed.
    Raises CheckpointError.
    """
    if not weights.revision.startswith(_DIGEST_PREFIX):
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
    entries = storage.find(name)
    if not entries:
        raise CheckpointError(f"{name}: no files found", "check the names of bucket and folder")
    listing = repr([(entry.path, entry.size, entry.etag) for entry in entries])
    target = CACHE / f"{kind}-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # a node's actors start at the same time: one fetches, the others wait
        if not target.is_dir():
            partial = f"{target}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            storage.download_folder(name, partial)
            os.rename(partial, target)
    return str(target)


def _from_hub(name: str, revision: str | None) -> tuple[str, str]:
    """Return the snapshot's folder and commit; use the hub's local cache if the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=[*_SMALL_FILES, "model*.safetensors"])
        if not list(Path(folder).glob("model*.safetensors")):  # the old layout, e.g. kakaobrain/align-base
            folder = snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin*"])
    except HFValidationError as exc:
        raise CheckpointError(f"{name}: neither a folder that exists nor a hub id", str(exc)) from exc
    except LocalEntryNotFoundError as exc:
        hint = "name a local or s3:// folder with the checkpoint, or use weights: demo"
        raise CheckpointError(
            f"{name}: the hub cannot be reached, and no copy is cached on this machine", hint
        ) from exc
    except HfHubHTTPError as exc:
        checkpoint = f"{name} at {revision}" if revision else name
        hint = "check the id and revision; for a private model log in with: hf auth login"
        raise CheckpointError(f"{checkpoint}: the hub refuses it ({type(exc).__name__})", hint) from exc
    return folder, os.path.basename(folder)


def _digest(folder: str, name: str) -> str:
    """sha256 over the names and contents of a checkpoint's files. Raises CheckpointError without a config.json."""
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise CheckpointError(
            f"{name}: not a checkpoint: no config.json", "name a hub id, or a folder written by save_pretrained"
        )
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{_DIGEST_PREFIX}{digest.hexdigest()[:32]}"
