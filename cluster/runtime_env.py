"""What the processes of a submission find on the cluster: the code, as a small package, and variables by name."""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# For object storage and the model hub. No AWS_PROFILE, no AWS_CA_BUNDLE: they name files of this machine.
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
STOP_SECONDS = 180  # Ray kills a stopped driver after 3; a run has a minute for what is in flight, and then commits it
_SENT = (".py", ".json", ".txt", ".safetensors")  # of a package: its code, and the demo's checkpoints
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same code is the same package, and is uploaded once


@dataclass(frozen=True)
class Environment:
    """Variables with their values, which nothing prints; `code` is a package to send, None where it is installed."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    code: Path | None = None

    def to_ray(self) -> dict[str, Any]:
        """As Ray takes it. Drivers and all their workers get it."""
        # Threads of a model that wait for each other must not spin: on few cores they take them from the decoders.
        settings = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "OMP_WAIT_POLICY": "PASSIVE"}
        tree: dict[str, Any] = {"env_vars": {**settings, **self.variables}}
        return {**tree, "working_dir": str(self.code)} if self.code else tree


def set_here(names: Iterable[str]) -> dict[str, str]:
    """Those of the variables that are set in this process, with their values."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def pack(root: Path, names: Sequence[str], into: Path) -> Path:
    """A zip of these packages and modules below `root`, whose processes can import them with nothing installed."""
    target = into / "code.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            for path in sorted([root / name, *(root / name).rglob("*")]):
                if path.suffix in _SENT and "__pycache__" not in path.parts:
                    entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), _EPOCH)
                    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(entry, path.read_bytes())
    return target
