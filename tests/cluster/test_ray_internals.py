"""Ray's private names are still there, in the version that is installed."""

import inspect
from pathlib import Path

import ray
from ray.job_submission import JobSubmissionClient

from cluster import ray_internals


def test_the_private_names_were_tested_with_the_installed_ray() -> None:
    """Whoever raises Ray's version reads cluster/ray_internals.py first, and then TESTED."""
    assert ray.__version__.rpartition(".")[0] == ray_internals.TESTED


def test_each_private_name_is_where_it_was() -> None:
    assert ray._private.worker._worker_logs_enabled in (True, False)
    assert callable(JobSubmissionClient._do_request)
    assert "_runtime_env_has_working_dir()" in inspect.getsource(ray._private.worker.connect)
    assert ray_internals.job_config(["/a"])._py_driver_sys_path == ["/a"]
    assert callable(vars(ray_internals)["maybe_enable_token_auth_if_token_available"])


def test_no_other_file_uses_rays_private_names() -> None:
    root = Path(ray_internals.__file__).parents[1]
    files = [path for package in ("jobs", "cluster") for path in (root / package).rglob("*.py")]
    private = [path.name for path in files if "ray._private" in path.read_text() or "ray._raylet" in path.read_text()]
    assert private == ["ray_internals.py"]
