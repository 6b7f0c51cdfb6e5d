"""Every private name of Ray that this package uses, in one place. A new version of Ray may rename any of them."""

from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.job_submission import JobSubmissionClient

TESTED = "2.60"  # the version of Ray that these names were tested with


def silence_worker_logs() -> None:
    """Stop Ray from printing twenty lines on stdout for each process that dies."""
    ray._private.worker._worker_logs_enabled = False


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
