"""The Hugging Face hub as a place to read from: hf://datasets/OWNER/NAME[@REVISION]/PATH, at one commit.

Credentials are the hub's own: HF_TOKEN, or `hf auth login`. HF_ENDPOINT names another hub.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from jobs.errors import StorageError

SCHEME = "hf://"


def filesystem() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def pinned(path: str) -> str:
    """The path at the commit that its revision, or the newest, is now. Raises StorageError."""
    with complaints(path):
        fs = filesystem()
        at = fs.resolve_path(path.removeprefix(SCHEME))
        if not hasattr(at, "repo_type"):
            raise StorageError(f"{path}: a bucket has no commits, so a run could not go on where it was", "use s3://")
        commit = fs._api.repo_info(at.repo_id, repo_type=at.repo_type, revision=at.revision).sha
        folder = "" if at.repo_type == "model" else f"{at.repo_type}s/"
        return f"{SCHEME}{folder}{at.repo_id}@{commit}/{at.path_in_repo}".rstrip("/")


@contextlib.contextmanager
def complaints(path: str) -> Iterator[None]:
    """What the hub and its client raise, as StorageError."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    lost = HfHubHTTPError.__bases__[0]  # of the client's HTTP library, whose name differs between versions
    try:
        yield
    except GatedRepoError as exc:
        raise StorageError(f"{path}: the hub wants its terms accepted first", "then log in: hf auth login") from exc
    except (RepositoryNotFoundError, FileNotFoundError) as exc:
        hint = "check the name; for a private one log in: hf auth login, or set HF_TOKEN"
        raise StorageError(f"{path}: not on the hub ({str(exc).splitlines()[0]})", hint) from exc
    except (HFValidationError, NotImplementedError, ValueError) as exc:
        raise StorageError(f"{path}: {exc}", "hf://datasets/OWNER/NAME[@REVISION]/FOLDER is the form") from exc
    except lost as exc:
        raise StorageError(
            f"{path}: the hub cannot be used: {exc!s:.200}", "check the network and HF_ENDPOINT"
        ) from exc
