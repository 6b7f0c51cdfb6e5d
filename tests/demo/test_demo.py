"""The demo tests the whole path: its scenes have true labels, so the output can be checked."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.demo import corpus, scenes
from jobs.demo.score import measure_accuracy
from jobs.demo.show import run_demo
from jobs.run import run
from tests.support.recipes import demo_job


def test_labels_and_retrieval_are_right_on_pictures_never_trained_on(
    s3: str, ray_session: None, scenes_parquet: Path
) -> None:
    """A wrong resample, a wrong scale or rows that changed places all pass every other test, and fail here."""
    out = str(scenes_parquet.with_name("out"))
    run(demo_job(scenes_parquet, out))
    truth = {row.id: row for shard in range(3) for row in corpus.rows(shard, 40)}
    right = measure_accuracy(out, truth)
    assert right.rows == 116
    assert right.label_accuracy > 0.95
    assert right.text_to_image > 0.5
    assert right.image_to_text > 0.5
    assert right.chance < 0.02


def test_show_leaves_a_recipe_an_output_and_a_picture(
    s3: str, no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(str(tmp_path), 2, 20)
    (out,) = tmp_path.glob("out*")
    assert (out / "_SUCCESS").exists()
    assert (tmp_path / "job.yaml").is_file()
    assert len(list((tmp_path / "corpus-parquet").glob("*.parquet"))) == 2
    assert len(list((tmp_path / "corpus-tar").glob("*.tar"))) == 2
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
    shown = capsys.readouterr().out
    assert "labels right" in shown
    assert f"{tmp_path}/job.yaml" in shown


def test_training_never_sees_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy on trained pictures would be no proof of anything."""
    from jobs.demo import train

    seen: list[int] = []
    drawn = scenes.scene

    def noted(seed: int) -> scenes.Scene:
        seen.append(seed)
        return drawn(seed)

    monkeypatch.setattr(scenes, "scene", noted)
    train.canvases(4, "vit")
    trained, held_out = set(seen), slice(len(seen), None)
    list(corpus.rows(0, 4))
    assert trained == {0, 1, 2, 3}
    assert set(seen[held_out]) == {scenes.HELD_OUT + i for i in range(4)}
    assert max(train.batches(30_000, 512, 1).__next__()[1]) < scenes.HELD_OUT


def test_the_same_arguments_draw_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        corpus.write_parquet(tmp_path / name, 1, 10)
        corpus.write_tars(tmp_path / name, 1, 10)
    for file in ("part-00000.parquet", "00000.tar"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_shards_do_not_repeat_each_other() -> None:
    both = [*corpus.rows(0, 20), *corpus.rows(1, 20)]
    assert len({row.id for row in both}) == len({row.key for row in both}) == 40
    assert len({row.image for row in both if row.image}) == len([row for row in both if row.image])


def test_captions_and_labels_are_true_of_the_scene() -> None:
    for seed in range(50):
        scene = scenes.scene(scenes.HELD_OUT + seed)
        assert scene.label in scenes.LABELS
        assert f"large {scene.label} on a {scene.background} background" in scene.caption
        assert scenes.draw(scene).size == scene.size


def test_the_corpus_has_coyos_columns_and_types(scenes_parquet: Path) -> None:
    columns = pq.read_schema(scenes_parquet / "part-00000.parquet")
    assert {field.name: str(field.type) for field in columns} == {
        "id": "int64", "url": "string", "text": "string", "width": "int32", "height": "int32", "image": "binary",
    }  # fmt: skip
