"""A job with labels of its own, from the file to the contact sheet."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import schema
from jobs.cli import DONE, FAILED, main
from jobs.commands.report import sample, write_contact_sheet
from jobs.demo import corpus, scenes
from tests.support.in_process import without_ray
from tests.support.recipes import small_job

TEMPLATES = tuple(f"a small red circle {side} a large {{}} on a gray background" for side in scenes.SIDES)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/ with a shard of 40 rows, labels.txt, job.yaml that names it, and the finished out/."""
    folder = tmp_path_factory.mktemp("zero-shot")
    corpus.write_parquet(folder / "in", 1, 40)
    (folder / "labels.txt").write_text("\n".join(scenes.LABELS) + "\n")
    zero_shot = {"labels": str(folder / "labels.txt"), "templates": TEMPLATES, "top_k": 2}
    align = {"weights": "demo", "pooled": True, "text": False, "zero_shot": zero_shot}
    config = small_job(folder / "in", folder / "out", models={"vit": None, "align": align})
    (folder / "job.yaml").write_text(config.to_yaml())
    with without_ray():
        assert main(["run", str(folder / "job.yaml")]) == DONE
    return folder


def test_every_row_has_the_labels_that_its_picture_shows(job: Path) -> None:
    rows = pq.read_table(job / "out" / "rows")
    names = json.loads((job / "out" / "_zero_shot_labels.json").read_text())
    assert names == list(scenes.LABELS) == json.loads(rows.schema.metadata[schema.ZERO_SHOT_LABEL_NAMES.encode()])
    shown = {row.id: row.label for row in corpus.rows(0, 40)}
    found = [names[ids[0]] for ids in rows.column("zero_shot_labels").to_pylist()]
    right = [name == shown[key] for name, key in zip(found, rows.column("key").to_pylist(), strict=True)]
    assert np.mean(right) > 0.8
    assert {len(probs) for probs in rows.column("zero_shot_probs").to_pylist()} == {2}
    assert rows.column_names[-4:] == ["image_embedding", "image_pooled", "zero_shot_labels", "zero_shot_probs"]
    assert not (job / "out" / "_labels.json").exists()


def test_an_object_says_how_its_zero_shot_labels_were_made(job: Path) -> None:
    about = json.loads((job / "out" / "_summary.json").read_text())["models"]["align"]
    assert about["zero_shot"]["templates"] == list(TEMPLATES)
    assert about["pooled"]["normalised"] is False
    assert about["normalised"] is True


def test_the_contact_sheet_shows_them(job: Path, tmp_path: Path) -> None:
    seen = sample(str(job / "out"), 8)
    assert all(len(row.zero_shot) == 2 and not row.labels for row in seen)
    right = [f"large {row.zero_shot[0][0]}" in str(row.text) for row in seen]
    assert sum(right) >= 6
    with Image.open(write_contact_sheet(str(job / "out"), str(tmp_path / "sheet.png"), 8)) as sheet:
        assert sheet.size == (4 * 300 + 12, 2 * (390 + 2 * 18) + 12)


def test_another_list_under_the_same_name_is_refused(
    no_ray: None, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of an output with one list's ids and half with another's is worth nothing."""
    file, labels = job / "labels.txt", (job / "labels.txt").read_text()
    try:
        file.write_text(labels.replace("red star", "red sun"))
        assert main(["run", str(job / "job.yaml")]) == FAILED
        assert "number 4 was 'red star', now 'red sun'" in capsys.readouterr().err
        file.unlink()
        assert main(["run", str(job / "job.yaml")]) == FAILED
        assert "models.align.zero_shot.labels: " in capsys.readouterr().err
        assert main(["run", str(job / "out" / "_job.yaml")]) == DONE  # which needs no file
    finally:
        file.write_text(labels)
