"""A checkpoint's description is cached on the machine."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.config import JobConfig
from jobs.errors import CheckpointError
from jobs.models import Spec, cache, describe, weights
from jobs.storage import Storage
from tests.support.checkpoints import copy, edit, rewrite
from tests.support.processes import ENVIRONMENT, ROOT


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "specs"


def recipe(folder: Path, **section: Any) -> JobConfig:
    """For the one model in the folder, a classifier or an encoder."""
    kind = "align" if "Align" in (folder / "config.json").read_text() else "vit"
    models = {"vit": None, "align": None, kind: {"weights": str(folder), **section}}
    return JobConfig.from_dict({"source": {"path": "in"}, "models": models, "output": {"path": "out"}})


def described(config: JobConfig) -> Spec:
    kind, section = next((kind, section) for kind, section in config.models if section)
    pinned, folder = weights.resolve_weights(kind, section.weights, None, Storage())
    return describe.describe_cached(kind, config, pinned, folder)


@pytest.mark.parametrize("kind", ["vit", "align"])
def test_a_cached_description_equals_the_first(kind: str, tmp_path: Path, cached: Path) -> None:
    config = recipe(copy(kind, tmp_path / kind))
    found = described(config)
    (file,) = cached.iterdir()
    written = file.stat().st_mtime_ns
    assert described(config) == found
    assert file.stat().st_mtime_ns == written


def test_a_cached_description_holds_for_the_same_files_recipe_and_code(
    tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("vit", tmp_path / "vit")
    assert described(recipe(folder)).options["top_k"] == 5
    assert described(recipe(folder, top_k=2)).options["top_k"] == 2
    edit(folder, "preprocessor_config.json", image_mean=[0.4, 0.5, 0.6])
    red, green, _ = described(recipe(folder)).scale.offset
    assert red != green
    monkeypatch.setattr(describe, "_code_version", lambda: "a later version")
    described(recipe(folder))
    assert len(list(cached.iterdir())) == 4


def test_a_checkpoint_that_is_not_whole_is_refused_again_and_again(tmp_path: Path, cached: Path) -> None:
    config = recipe(rewrite(copy("vit", tmp_path / "vit"), classifier__bias=None))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="missing keys"):
            described(config)
    assert not cached.exists()


def test_labels_of_a_file_are_read_each_time(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a cat\na dog\n")
    config = recipe(copy("align", tmp_path / "align"), zero_shot={"labels": str(tmp_path / "labels")})
    assert described(config).labels == ("a cat", "a dog")
    (tmp_path / "labels").write_text("a bird\n")
    assert described(config).labels == ("a bird",)


def test_a_damaged_cache_file_is_ignored(tmp_path: Path, cached: Path) -> None:
    config = recipe(copy("vit", tmp_path / "vit"))
    found = described(config)
    (file,) = cached.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert described(config) == found


def test_a_home_that_cannot_be_written_disables_the_cache(
    tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "CACHE", tmp_path / "file" / "below")
    config = recipe(copy("vit", tmp_path / "vit"))
    assert described(config) == described(config)
    assert not cached.exists()


def test_a_cached_description_is_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes most of a short command's time."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / ".cache" / "coyo-jobs")
    config = recipe(copy("vit", tmp_path / "vit"))
    found = described(config)
    (tmp_path / "job.yaml").write_text(config.to_yaml())
    code = (
        "import sys; from jobs.recipe import load_recipe; from jobs.models.describe import describe_models; "
        "from jobs.storage import Storage; "
        f"(spec,) = describe_models(load_recipe({str(tmp_path / 'job.yaml')!r}), Storage()); "
        "print(spec.labels, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**ENVIRONMENT, "HOME": str(tmp_path)}, cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip().splitlines()[-1] == f"{found.labels} False"
