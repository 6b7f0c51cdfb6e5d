"""All private names of Ray that this package uses. A new version of Ray may rename any of them."""

from collections.abc import Iterable
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.job_config import JobConfig
from ray.job_submission import JobSubmissionClient

TESTED = "2.60"  # version of Ray


def silence_worker_logs() -> None:
    """Stop Ray from printing twenty lines on stdout for each process that dies."""
    ray._private.worker._worker_logs_enabled = False


def job_config(folders: Iterable[str]) -> JobConfig:
    """Return a `job_config` for ray.init() that puts only these folders before a worker's own sys.path.

    By default Ray puts the driver's current folder and the folder of its script there.
    """
    config = JobConfig(_py_driver_sys_path=list(folders))
    config._runtime_env_has_working_dir = lambda: True  # Ray only uses it to decide whether to add the driver's folders
    return config


def worker_folders() -> list[str]:
    """Return the folders that ray.init() of this process has put before the sys.path of workers, in order."""
    added = ray._private.worker.global_worker.core_worker.get_job_config().py_driver_sys_path
    return list(added)[::-1]  # Ray inserts each in front of the previous one


def use_token() -> None:
    """Send the token of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the job server."""
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


class JobClient(JobSubmissionClient):  # type: ignore[misc]  # Ray is not typed
    """Ray's client with timeouts: without them it waits forever for a host that drops packets."""

    timeout = (10.0, 60.0)  # seconds to connect and to answer

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": self.timeout, **options})

    @property
    def server_version(self) -> str:
        """The version of Ray on the head."""
        return str(self._server_ray_version)
