"""Every private name of Ray that this package uses, in one place. A new version of Ray may rename any of them."""

from collections.abc import Iterable
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.job_config import JobConfig
from ray.job_submission import JobSubmissionClient

TESTED = "2.60"  # the version of Ray that these names were tested with


def silence_worker_logs() -> None:
    """Stop Ray from printing twenty lines on stdout for each process that dies."""
    ray._private.worker._worker_logs_enabled = False


def job_config(folders: Iterable[str]) -> JobConfig:
    """Return the option of ray.init() with which workers have only these folders before their own sys.path.

    Without it, the driver's current folder and the folder of its script come first there.
    """
    config = JobConfig(_py_driver_sys_path=list(folders))
    config._runtime_env_has_working_dir = lambda: True  # asked only to decide whether to add the driver's folders
    return config


def worker_folders() -> list[str]:
    """Return the folders that ray.init(), in this process, has put first on the sys.path of workers, in their order."""
    added = ray._private.worker.global_worker.core_worker.get_job_config().py_driver_sys_path
    return list(added)[::-1]  # each was put in front of the one before


def use_token() -> None:
    """Send the token of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the job server."""
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


class JobClient(JobSubmissionClient):  # type: ignore[misc]  # Ray is not typed
    """Ray's client with timeouts: its own waits for ever for a host that drops packets."""

    timeout = (10.0, 60.0)  # seconds to connect, seconds to answer

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": self.timeout, **options})

    @property
    def server_version(self) -> str:
        """The head's version of Ray."""
        return str(self._server_ray_version)
