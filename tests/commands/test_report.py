"""The contact sheet: what a person looks at first."""

from pathlib import Path

import pytest
from PIL import Image

from jobs.commands.report import sample, write_contact_sheet
from jobs.commands.verify import verify
from jobs.errors import OutputError
from jobs.output.finished import FinishedOutput
from jobs.output.layout import JOB
from jobs.run import run
from tests.support.in_process import without_ray
from tests.support.recipes import demo_job


@pytest.fixture(scope="module")
def output(scenes_parquet: Path) -> str:
    """Finished; other tests of this worker may share it: running it again does nothing."""
    out = str(scenes_parquet.with_name("out"))
    with without_ray():
        run(demo_job(scenes_parquet, out))
    return out


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (4, 1), (5, 2), (24, 6)])
def test_a_sheet_is_a_png_of_four_pictures_a_line(output: str, tmp_path: Path, count: int, lines: int) -> None:
    to = str(tmp_path / "sheet.png")
    assert write_contact_sheet(output, to, count) == to
    with Image.open(to) as sheet:
        assert (sheet.format, sheet.size) == ("PNG", (4 * 300 + 12, lines * 390 + 12))
        assert len(sheet.getcolors(1 << 24) or []) > 100


def test_more_pictures_than_rows_draws_every_row(output: str) -> None:
    assert len(sample(output, 1000)) == 116


def test_whatever_reads_an_output_finds_it_by_its_recipe(output: str, tmp_path: Path) -> None:
    recipe = tmp_path / "job.yaml"
    recipe.write_text(Path(output, JOB).read_text())
    assert len(sample(str(recipe), 1000)) == len(sample(output, 1000))
    checks = verify(str(recipe))
    assert [check.count for check in checks] == [check.count for check in verify(output)]
    assert all(check.ok for check in checks)
    assert [obj.entry for obj in FinishedOutput.open(str(recipe)).objects] == [
        o.entry for o in FinishedOutput.open(output).objects
    ]


def test_a_picture_comes_with_its_labels_and_the_texts_that_match_best(output: str) -> None:
    for row in sample(output, 8):
        probs = [prob for _, prob in row.labels]
        cosines = [cosine for _, cosine in row.matches]
        assert len(probs) == len(cosines) == 3
        assert probs == sorted(probs, reverse=True)
        assert cosines == sorted(cosines, reverse=True)
        color, shape = row.labels[0][0].split()
        assert f"large {color} {shape}" in str(row.text)


def test_a_folder_that_is_no_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"_job\.yaml: not found, so .* is not the output of a job"):
        write_contact_sheet(str(tmp_path), str(tmp_path / "sheet.png"), 4)
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("name", ["no/such/folder/sheet.png", "sheet.unknown"])
def test_a_sheet_that_cannot_be_written_is_an_error_with_a_name(output: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="sheet"):
        write_contact_sheet(output, str(tmp_path / name), 1)
