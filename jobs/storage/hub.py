"""Read from the Hugging Face hub: hf://datasets/OWNER/NAME[@REVISION]/PATH, pinned to one commit.

Credentials come from HF_TOKEN or `hf auth login`; HF_ENDPOINT selects another hub.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from jobs.errors import StorageError

SCHEME = "hf://"


def filesystem() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def pin_to_commit(path: str) -> str:
    """Replace the revision of a path, by default the newest, by its current commit. Raises StorageError."""
    with translate_errors(path):
        fs = filesystem()
        resolved = fs.resolve_path(path.removeprefix(SCHEME))
        if not hasattr(resolved, "repo_type"):
            raise StorageError(f"{path}: a hub bucket has no commits, so a run could not be resumed", "use s3://")
        commit = fs._api.repo_info(resolved.repo_id, repo_type=resolved.repo_type, revision=resolved.revision).sha
        folder = "" if resolved.repo_type == "model" else f"{resolved.repo_type}s/"
        return f"{SCHEME}{folder}{resolved.repo_id}@{commit}/{resolved.path_in_repo}".rstrip("/")


@contextlib.contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Turn errors of the hub and its client into StorageError."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    http_error = HfHubHTTPError.__bases__[0]  # of the HTTP library: requests or httpx, depending on the version
    try:
        yield
    except GatedRepoError as exc:
        raise StorageError(
            f"{path}: its terms on the hub are not accepted", "accept them on its page, then log in: hf auth login"
        ) from exc
    except (RepositoryNotFoundError, FileNotFoundError) as exc:
        hint = "check the name; for a private repository, run hf auth login or set HF_TOKEN"
        raise StorageError(f"{path}: not on the hub ({str(exc).splitlines()[0]})", hint) from exc
    except (HFValidationError, NotImplementedError, ValueError) as exc:
        raise StorageError(f"{path}: {exc}", "use hf://datasets/OWNER/NAME[@REVISION]/FOLDER") from exc
    except http_error as exc:
        raise StorageError(
            f"{path}: the hub cannot be used: {exc!s:.200}", "check the network and HF_ENDPOINT"
        ) from exc
