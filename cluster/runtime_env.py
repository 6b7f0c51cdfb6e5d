"""The runtime environment of a submission: its environment variables, and the code as a zip file."""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# For object storage and the model hub. Not AWS_PROFILE and AWS_CA_BUNDLE: they name files of this machine.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "HF_TOKEN",
)
STOP_SECONDS = (
    180  # Ray's default is 3; a stopped run takes up to a minute to finish what is in flight, then commits it
)
_SENT = (".py", ".json", ".txt", ".safetensors")  # suffixes of the code and of the demo's checkpoints
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed time stamp: the same code makes the same zip, which Ray uploads once


@dataclass(frozen=True)
class Environment:
    """Environment variables, whose values are never printed, and the zip of code to upload, None if it is installed."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    code: Path | None = None

    def to_ray(self) -> dict[str, Any]:
        """Return Ray's `runtime_env`, for the driver and its workers."""
        # OpenMP threads must not spin while they wait: on few cores they would slow the decoders.
        settings = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "OMP_WAIT_POLICY": "PASSIVE"}
        tree: dict[str, Any] = {"env_vars": {**settings, **self.variables}}
        return {**tree, "working_dir": str(self.code)} if self.code else tree


def read_environ(names: Iterable[str]) -> dict[str, str]:
    """Return the variables of these names that are set in this process, with their values."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def pack(root: Path, names: Sequence[str], into: Path) -> Path:
    """Write code.zip into `into`: these packages and modules below `root`, importable from the zip. Return its path."""
    target = into / "code.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            for path in sorted([root / name, *(root / name).rglob("*")]):
                if path.suffix in _SENT and "__pycache__" not in path.parts:
                    entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), _EPOCH)
                    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(entry, path.read_bytes())
    return target
