"""Checkpoints resolve to local folders, and actors run exactly the pinned files."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

from jobs.errors import CheckpointError, JobError
from jobs.models import weights
from jobs.models.weights import DEMO_WEIGHTS, local_folder, resolve_weights
from jobs.storage import Storage
from tests.support.checkpoints import copy, hub_align, rewrite, tensors
from tests.support.faulty_s3 import FaultyS3, delay
from tests.support.shards import put_folder

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def retrained(folder: Path) -> Path:
    """Other weights in a file of the very same size."""
    return rewrite(folder, classifier__bias=tensors(folder)["classifier.bias"] + 1)


def put(folder: Path, to: str) -> str:
    put_folder(folder, to)
    return to


@pytest.mark.parametrize("kind", ["vit", "align"])
def test_demo_is_embedded(kind: str) -> None:
    pinned, folder = resolve_weights(kind, "demo", None, Storage())
    assert Path(folder) == DEMO_WEIGHTS / kind
    assert local_folder(kind, pinned) == folder


def test_a_local_folder_is_used_where_it_is(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path / "mine")
    pinned, found = resolve_weights("vit", str(folder), None, Storage())
    assert found == str(folder)
    assert pinned.revision == resolve_weights("vit", "demo", None, Storage())[0].revision


def test_a_relative_folder_and_a_home_folder_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy("vit", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    revisions = {
        resolve_weights("vit", name, None, Storage())[0].revision for name in ("mine", "./mine", "~/mine", "mine/")
    }
    assert len(revisions) == 1


def test_a_pinned_revision_matches_the_same_files(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path / "mine")
    revision = resolve_weights("vit", str(folder), None, Storage())[0].revision
    assert resolve_weights("vit", str(folder), revision, Storage())[0].revision == revision


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """Two runs of one job with different weights would mix their results in one output."""
    folder = copy("vit", tmp_path / "mine")
    revision = resolve_weights("vit", str(folder), None, Storage())[0].revision
    retrained(folder)
    with pytest.raises(CheckpointError, match=f"the recipe pins revision {revision}"):
        resolve_weights("vit", str(folder), revision, Storage())


def test_an_actor_refuses_files_that_are_not_the_pinned_ones(tmp_path: Path) -> None:
    """Another machine may hold another folder under the same path; a folder may change between plan and load."""
    folder = copy("vit", tmp_path / "mine")
    pinned, _ = resolve_weights("vit", str(folder), None, Storage())
    retrained(folder)
    with pytest.raises(CheckpointError, match=f"on this machine, but {pinned.revision} where the run began"):
        local_folder("vit", pinned)


def test_a_folder_that_an_actor_cannot_see_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy("vit", tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    pinned, _ = resolve_weights("vit", "models/mine", None, Storage())
    monkeypatch.chdir("/")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        local_folder("vit", pinned)


def test_a_branch_is_no_revision_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no branches or tags"):
        resolve_weights("vit", "demo", "main", Storage())


def test_a_bucket_folder_is_fetched_once_and_has_the_digest_of_its_files(bucket: str, cache: Path) -> None:
    path = put(DEMO_WEIGHTS / "align", f"{bucket}/models/align")
    pinned, folder = resolve_weights("align", path, None, Storage())
    assert pinned.revision == resolve_weights("align", "demo", None, Storage())[0].revision
    before = {file: file.stat().st_mtime_ns for file in Path(folder).iterdir()}
    travelled = pickle.loads(pickle.dumps(pinned))
    assert (
        local_folder("align", travelled)
        == resolve_weights("align", path + "/", pinned.revision, Storage())[1]
        == folder
    )
    assert {file: file.stat().st_mtime_ns for file in Path(folder).iterdir()} == before
    assert [each.suffix for each in cache.iterdir() if str(each) != folder] == [".lock"]


_ACTOR = """
import sys
from jobs.config import StorageConfig
from jobs.models.weights import Weights, local_folder
from jobs.storage import Storage
name, revision, endpoint = sys.argv[1:]
print(local_folder("align", Weights(name, revision, Storage(StorageConfig(endpoint_url=endpoint)))))
"""


def test_actors_that_start_together_fetch_the_weights_of_their_machine_once(
    s3: str, bucket: str, tmp_path: Path
) -> None:
    """Eight actors that each fetched two gigabytes would wait eight times as long, and fill the disk meanwhile."""
    path = put(DEMO_WEIGHTS / "align", f"{bucket}/models/align")
    revision = resolve_weights("align", "demo", None, Storage())[0].revision
    (tmp_path / ".cache/coyo-jobs/weights").mkdir(parents=True)
    with FaultyS3(s3) as store:
        store.on("GET", "model.safetensors", delay(1.0))
        command = [sys.executable, "-c", _ACTOR, path, revision, store.endpoint]
        actors = [
            subprocess.Popen(command, env={**os.environ, "HOME": str(tmp_path)}, cwd=ROOT, text=True, stdout=PIPE)
            for _ in range(3)
        ]
        folders = {actor.communicate(timeout=500)[0].strip() for actor in actors}
        assert len(folders) == 1
        assert store.asked("GET", "model.safetensors") == 1
    assert sorted(each.name for each in Path(folders.pop()).iterdir()) == sorted(os.listdir(DEMO_WEIGHTS / "align"))


def test_what_a_killed_fetch_left_is_not_taken_for_weights(bucket: str, cache: Path) -> None:
    path = put(DEMO_WEIGHTS / "vit", f"{bucket}/vit")
    folder = resolve_weights("vit", path, None, Storage())[1]
    os.rename(folder, f"{folder}.partial")
    (Path(f"{folder}.partial") / "model.safetensors").write_bytes(b"half")
    assert (
        resolve_weights("vit", path, None, Storage())[0].revision
        == resolve_weights("vit", "demo", None, Storage())[0].revision
    )
    assert not Path(f"{folder}.partial").exists()


def test_a_changed_bucket_folder_is_refused(bucket: str, cache: Path, tmp_path: Path) -> None:
    path = put(DEMO_WEIGHTS / "vit", f"{bucket}/vit")
    revision = resolve_weights("vit", path, None, Storage())[0].revision
    changed = copy("vit", tmp_path / "changed")
    (changed / "README.md").write_text("more")
    put(changed, path)
    with pytest.raises(CheckpointError, match="pins revision"):
        resolve_weights("vit", path, revision, Storage())


def test_weights_retrained_in_the_bucket_are_not_served_from_the_cache(
    bucket: str, cache: Path, tmp_path: Path
) -> None:
    path = put(copy("vit", tmp_path / "vit"), f"{bucket}/vit")
    old, _ = resolve_weights("vit", path, None, Storage())
    put(retrained(tmp_path / "vit"), path)
    new, folder = resolve_weights("vit", path, None, Storage())
    assert new.revision != old.revision
    with pytest.raises(CheckpointError, match="where the run began"):
        local_folder("vit", old)
    assert torch.equal(tensors(Path(folder))["classifier.bias"], tensors(tmp_path / "vit")["classifier.bias"])


def test_a_bucket_folder_with_nothing_in_it_says_so(bucket: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="no files found"):
        resolve_weights("vit", f"{bucket}/no/such", None, Storage())
    with pytest.raises(JobError, match="no bucket"):
        resolve_weights("vit", "s3://no-such-bucket-here/vit", None, Storage())


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path, bucket: str, cache: Path) -> None:
    folder = copy("vit", tmp_path / "mine")
    (folder / "config.json").unlink()
    for name in (
        str(folder),
        put(folder, f"{bucket}/vit"),
        str(tmp_path / "no-such"),
        str(folder / "model.safetensors"),
    ):
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            resolve_weights("vit", name, None, Storage())


@pytest.mark.parametrize("name", ["no-such-org-here/no-such-model", "no-such-model-here"])
def test_an_unavailable_hub_id_is_one_clear_error(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: the hub (cannot be reached|refuses it)"):
        resolve_weights("vit", name, None, Storage())


@pytest.mark.parametrize("name", ["", " ", "a/b/c", "two words", "demo ", "-", "line\nbreak", "x" * 300, "über/modell"])
def test_a_nonsense_name_is_neither_folder_nor_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder that exists nor a hub id"):
        resolve_weights("vit", name, None, Storage())


@pytest.mark.parametrize("name", ["ftp://host/vit", "gs://bucket/vit", "https://huggingface.co/org/vit", "s3://"])
def test_an_unknown_url_scheme_is_a_job_error(name: str) -> None:
    with pytest.raises(JobError):
        resolve_weights("vit", name, None, Storage())


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What earlier downloads of acme/align left on this machine, whose network is gone."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "hub" / "models--acme--align"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return repo / "snapshots" / COMMIT


@pytest.mark.parametrize("make", [lambda to: copy("align", to), hub_align], ids=["safetensors", "pytorch_model.bin"])
def test_a_cached_copy_serves_when_the_hub_cannot_be_reached(hub_cache: Path, make: object) -> None:
    assert callable(make)
    make(hub_cache)
    pinned, folder = resolve_weights("align", "acme/align", None, Storage())
    assert (pinned.revision, Path(folder)) == (COMMIT, hub_cache)
    assert local_folder("align", pinned) == folder
    assert resolve_weights("align", "acme/align", COMMIT, Storage())[0] == pinned


def test_a_revision_that_is_not_cached_is_refused_offline(hub_cache: Path) -> None:
    copy("align", hub_cache)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        resolve_weights("align", "acme/align", "v9", Storage())
