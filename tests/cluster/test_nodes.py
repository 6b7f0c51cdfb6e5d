"""Nodes that come and go: Ray's own autoscaler, whose machines are processes here, with GPUs in name only."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.config import JobConfig
from jobs.demo import corpus
from tests.support.outputs import check_whole, rows_of
from tests.support.processes import ENVIRONMENT, ROOT, free_port, processes, until
from tests.support.recipes import small_job

_HEAD = "f" * 51 + "00000"  # the id that Ray's provider of pretended nodes gives the head
_SMALL = {"object_store_memory": 128 << 20}
_TYPES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "cpu": {"resources": {"CPU": 2, **_SMALL}, "labels": {"role": "cpu"}, "node_config": {}, "max_workers": 1},
    "gpu": {"resources": {"CPU": 1, "GPU": 1, **_SMALL}, "labels": {"card": "h"}, "node_config": {}, "max_workers": 2},
}
_NONE = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
]


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[str]:
    """The address of a head that has nothing, and whose autoscaler may start one node with CPUs and two with a GPU."""
    import ray._private.services as services

    address = f"{services.get_node_ip_address()}:{free_port()}"
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    config = {
        "cluster_name": "growing", "max_workers": 8, "upscaling_speed": 1000, "idle_timeout_minutes": 5,
        "provider": {"type": "external", "module": provider, "head_node_id": _HEAD, "launch_multiple": True,
                     "gcs_address": address},
        "head_node_type": "ray.head.default", "available_node_types": _TYPES, "auth": {}, "docker": {},
        "file_mounts": {}, "file_mounts_sync_continuously": False, **{name: [] for name in _NONE},
    }  # fmt: skip
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    settings = {
        "RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_CLOUD_INSTANCE_ID": _HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
        "RAY_NODE_TYPE_NAME": "ray.head.default", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:  # a socket's path has 107 bytes
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0",
            f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}", "--object-store-memory=100000000",
            "--include-dashboard=false", "--disable-usage-stats", f"--autoscaling-config={tmp_path}/cluster.json",
        ]  # fmt: skip
        with (tmp_path / "head").open("wb") as log:
            head = subprocess.Popen(command, env={**ENVIRONMENT, **settings}, stdout=log, stderr=log,
                                    start_new_session=True)  # fmt: skip
        try:
            until(lambda: "Ray runtime started" in (tmp_path / "head").read_text())
            yield address
        finally:
            for pid in processes(lambda stat: stat[3] == str(head.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()


def nodes(kind: str, address: str) -> list[int]:
    """The process of each node of this kind, the oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, told = (path / "cmdline").read_bytes(), (path / "environ").read_bytes().split(b"\0")
            ours = b"raylet/raylet" in command.split(b"\0")[0] and address.encode() in command
            if ours and f"RAY_NODE_TYPE_NAME={kind}".encode() in told:
                found.append(int(path.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_waits_for_its_gpus_grows_with_them_and_survives_their_loss(growing: str, tmp_path: Path) -> None:
    """It begins on a cluster without a node; one GPU comes, then a second; the first is taken away. Batches are slow
    until then, and more than one actor has room for: it is what waits that makes a pool grow."""
    corpus.write_parquet(tmp_path / "shards", 15, 8)
    compute = {
        "device": "cuda", "gpus": {"min": 1, "max": 2}, "decode_cpus": 1, "annotate_on": {"card": "h"},
        "decode_on": {"role": "cpu"}, "batch_size": 4, "wait_seconds": 120,
    }  # fmt: skip
    tree = small_job(tmp_path / "shards", tmp_path / "out").model_dump()
    config = JobConfig.from_dict(tree | {"compute": tree["compute"] | compute})
    (tmp_path / "job.yaml").write_text(config.to_yaml())
    (tmp_path / "seen").mkdir()
    command = [sys.executable, "-m", "tests.support.pretend", *(str(tmp_path / n) for n in ("job.yaml", "seen")), "10"]
    soon = {"RAY_DATA_CLUSTER_UTIL_AVG_WINDOW_S": "2", "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "2"}
    where = {"RAY_ADDRESS": growing, "RAY_AUTH_MODE": "disabled", **soon}
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, env={**ENVIRONMENT, **where}, cwd=ROOT, stdout=log, stderr=log)

    def said() -> str:
        return (tmp_path / "log").read_text()

    # What the run says is waited for, not what processes there are: a node is a process before the run has it.
    until(lambda: "has joined" in said() or driver.poll() is not None)
    os.kill(nodes("gpu", growing)[0], signal.SIGKILL)
    until(lambda: "is gone" in said() or driver.poll() is not None)
    (tmp_path / "seen/hurry").touch()
    assert driver.wait(500) == 0, said()
    assert "waiting   compute.gpus.min is 1, but Ray sees 0 on nodes with card: h" in said()
    assert "annotate on 1 to 2 GPUs" in said()
    assert "has joined" in said()
    assert "is gone" in said()
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"annotate-gpu", "decode-cpu", "hurry"}
    check_whole(config.output.path, rows_of(15, 8))
