"""What the tests share: one small Ray, a real S3 server over HTTP, the demo's shards, real photos if there are any."""

import logging
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from jobs.demo import corpus
from tests.support.faulty_s3 import FaultyS3
from tests.support.processes import until
from tests.support.shards import put_folder

# Deadlines and health checks of hypothesis count seconds: a busy machine would fail them.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

RAY = {"ray_session", "head", "growing"}  # fixtures
PHOTOS = Path(__file__).parents[2] / "shared" / "corpus"


@pytest.fixture(scope="session")
def ray_session(s3: str) -> Iterator[None]:
    """One Ray for the whole session; `run` uses the Ray it finds. Its processes inherit the credentials of `s3`."""
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(
        "local", num_cpus=2, object_store_memory=512 << 20, include_dashboard=False,
        logging_level=logging.ERROR, log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def no_ray() -> Iterator[None]:
    """A run takes place in this process."""
    from tests.support.in_process import without_ray  # which imports all that a run does

    with without_ray():
        yield


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of a real S3 server over HTTP, in a process of its own; its credentials are in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    names = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        _wait_for(endpoint)
        yield endpoint
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest) -> str:
    """A bucket of this test's own, as s3://name."""
    import s3fs

    name = f"t{abs(hash(request.node.nodeid)) % 10**12}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3) as running:
        yield running


@pytest.fixture
def given(bucket: str, tmp_path: Path) -> list[tuple[str, int]]:
    """Two shards of 12 rows at <bucket>/in; the address of each row."""
    corpus.write_parquet(tmp_path / "in", 2, 12)
    put_folder(tmp_path / "in", f"{bucket}/in")
    return [(f"part-{shard:05d}.parquet", row) for shard in range(2) for row in range(12)]


@pytest.fixture(scope="session")
def scenes_parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three Parquet shards of 40 demo scenes each, some rows broken."""
    folder = tmp_path_factory.mktemp("scenes") / "parquet"
    corpus.write_parquet(folder, 3, 40)
    return folder


@pytest.fixture(scope="session")
def scenes_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes as three WebDataset tars."""
    folder = tmp_path_factory.mktemp("scenes") / "tars"
    corpus.write_tars(folder, 3, 40)
    return folder


@pytest.fixture(scope="session")
def photos() -> Path:
    """A folder with photos/, odd/, captions.jsonl and odd.jsonl of real images."""
    if not (PHOTOS / "captions.jsonl").is_file():
        pytest.skip(f"no real photos at {PHOTOS}")
    return PHOTOS


def _wait_for(endpoint: str) -> None:
    def answers() -> bool:
        with suppress(OSError):
            urllib.request.urlopen(endpoint, timeout=60).close()
            return True
        return False

    until(answers)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.support.scheduling import ByNeighbours

    return ByNeighbours(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a typo should not wait for a cluster; then the longest, so that all workers end together."""

    def cost(item: pytest.Item) -> tuple[bool, bool]:
        ray, slow = (item.get_closest_marker(name) is not None for name in ("ray", "slow"))
        return ray or slow, not slow

    for item in items:
        if RAY & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")
    items.sort(key=cost)
