"""Every export format: all rows in order, in parts, resumable, with checked row counts, never into a foreign folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import cli
from jobs.cli import main
from jobs.errors import OutputError
from jobs.exports import FORMATS, ExportSummary, export
from jobs.output.layout import EXPORT
from jobs.storage import Storage
from tests.support.exported import read, row, write_output

SIZES = {"coyo-labeled": 4, "clip-retrieval": 12, "hf": 4}  # files of 50 rows, 15 in each
COLUMN = {"coyo-labeled": "id", "clip-retrieval": "key", "hf": "key"}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_output(tmp_path_factory.mktemp("finished") / "out")


def keys(form: str) -> list[int]:
    given = [row(index) for index in range(50)]
    return [one["key"] for one in given if form != "clip-retrieval" or one["text"]]


def stamps(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def refusal(form: str, output: object, to: object, rows_per_file: int = 15) -> str:
    with pytest.raises(OutputError) as caught:
        export(form, str(output), str(to), rows_per_file)
    return str(caught.value)


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == cli.EXPORT_FORMATS


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_has_every_row_in_order_in_files_of_bounded_size(form: str, output: str, tmp_path: Path) -> None:
    exported = export(form, output, str(tmp_path), 15)
    assert exported.files == SIZES[form]
    assert read(tmp_path).column(COLUMN[form]).to_pylist() == keys(form)
    assert max(pq.read_metadata(path).num_rows for path in tmp_path.rglob("*.parquet")) <= 15
    said = json.loads((tmp_path / EXPORT).read_text())
    assert said["rows"] == exported.rows == len(keys(form))
    assert said["rows"] + sum(said["left_out"].values()) == 50
    assert said["rejects"] == {"empty": 1}
    assert said["models"]["vit"]["revision"] == "sha256:0"


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_on_s3(form: str, bucket: str, tmp_path: Path) -> None:
    write_output(f"{bucket}/out")
    exported = export(form, f"{bucket}/out", f"{bucket}/to", 15)
    assert read(f"{bucket}/to").column(COLUMN[form]).to_pylist() == keys(form)
    assert export(form, f"{bucket}/out", f"{bucket}/to", 15) == ExportSummary(**{**vars(exported), "created": False})
    export(form, f"{bucket}/out", str(tmp_path / "to"), 15)
    assert read(tmp_path / "to") == read(f"{bucket}/to")


@pytest.mark.parametrize("form", FORMATS)
def test_a_killed_export_goes_on_and_writes_no_finished_file_again(form: str, output: str, tmp_path: Path) -> None:
    """What a kill leaves: no _export.json, parts without their last file, a write that was not revealed."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    for to in (whole, again):
        export(form, output, str(to), 15)
    (again / EXPORT).unlink()
    lost = sorted(again.rglob("*.parquet"))[1:3]
    for path in lost:
        path.unlink()
    (again / ".part.parquet.0af.tmp").write_bytes(b"half")
    before = stamps(again)
    export(form, output, str(again), 15)
    finished = [name for name in before if name.endswith(".parquet")]
    assert len(finished) == 2
    assert {name: before[name] for name in finished} == {name: stamps(again)[name] for name in finished}
    for path in whole.rglob("*.*"):
        assert (again / path.relative_to(whole)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("form", FORMATS)
def test_a_complete_export_is_left_as_it_is(
    form: str, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", form, output, str(tmp_path), "--rows-per-file", "15"]
    assert main(command) == 0
    first = capsys.readouterr().out
    before = stamps(tmp_path)
    assert main(command) == 0
    assert capsys.readouterr().out == f"already complete: {first}"
    assert first.startswith(f"{len(keys(form))} rows in {SIZES[form]} files in {tmp_path}, as {form}\n")
    assert stamps(tmp_path) == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_lost_rows_is_named(form: str, output: str, tmp_path: Path) -> None:
    """Counts come from the files as they are stored, not from what was meant to be written."""
    export(form, output, str(tmp_path), 15)
    (tmp_path / EXPORT).unlink()
    hurt = next(iter(sorted(tmp_path.rglob("*.npy")) or sorted(tmp_path.rglob("*.parquet"))))
    if hurt.suffix == ".npy":
        hurt.write_bytes(hurt.read_bytes()[:-16])
    else:
        stored = pq.read_table(hurt)
        pq.write_table(stored.slice(1), hurt)
    assert f"{hurt}: {'0' if hurt.suffix == '.npy' else '14'} rows, must be" in refusal(form, output, tmp_path)
    assert not (tmp_path / EXPORT).exists()


def test_a_cut_file_is_named_with_what_to_do(output: str, tmp_path: Path) -> None:
    export("hf", output, str(tmp_path), 15)
    (tmp_path / EXPORT).unlink()
    cut = next(tmp_path.rglob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-5])
    assert f"{cut}: not a whole Parquet file" in refusal("hf", output, tmp_path)


def test_an_unfinished_output_is_refused_with_the_command_that_finishes_it(output: str, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / "_SUCCESS").unlink()
    said = refusal("hf", tmp_path / "out", tmp_path / "to")
    assert "is not finished" in said
    assert f"hint: coyo-jobs run {tmp_path}/out/_job.yaml" in said
    assert "is not the output of a job" in refusal("hf", tmp_path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_an_output_of_rejects_only_has_nothing_to_export(tmp_path: Path) -> None:
    write_output(tmp_path / "out", 1)
    (next((tmp_path / "out" / "rows").iterdir())).unlink()
    assert "has no rows" in refusal("hf", tmp_path / "out", tmp_path / "to")


@pytest.mark.parametrize("below", ["", "/rows", "/exports/hf"])
def test_nothing_is_written_into_the_output_or_its_source(output: str, below: str) -> None:
    """The next run would read an export as input, and the ledger would count its rows."""
    before = stamps(Path(output))
    assert f"lies inside {output}" in refusal("hf", output, output + below)
    assert f"lies inside {output}-in" in refusal("hf", output, f"{output}-in{below}")
    assert stamps(Path(output)) == before


def test_the_folder_of_another_export_is_refused_with_the_difference(output: str, tmp_path: Path) -> None:
    to = tmp_path / "to"
    export("hf", output, str(to), 15)
    assert "form was 'hf', now 'coyo-labeled'" in refusal("coyo-labeled", output, to)
    assert "rows_per_file was 15, now 16" in refusal("hf", output, to, 16)
    (to / EXPORT).unlink()
    assert "is no part of this export" in refusal("coyo-labeled", output, to)
    assert "rows_per_file was 15, now 16" in refusal("hf", output, to, 16)
    assert "output was" in refusal("hf", write_output(tmp_path / "other", 51), to)


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "data/train-00009-of-00004.parquet"])
def test_a_folder_with_anything_else_in_it_is_refused(output: str, tmp_path: Path, name: str) -> None:
    """A clone of a data set repository has its own card."""
    Storage().put(str(tmp_path / name), b"mine")
    Storage().put(str(tmp_path / ".git" / "config"), b"hidden files do not matter")
    assert f"holds {name}, which is no part of this export" in refusal("hf", output, tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_rows_that_were_computed_again_make_another_output(tmp_path: Path) -> None:
    """A retry between a killed export and the same command again would mix two outputs in one folder."""
    output = write_output(tmp_path / "out")
    export("hf", output, str(tmp_path / "to"), 15)
    (tmp_path / "to" / EXPORT).unlink()
    write_output(tmp_path / "out", change=_relabelled)
    assert "belongs to another export: output was" in refusal("hf", output, tmp_path / "to")


def _relabelled(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "labels": [4, 3, 2], "label_probs": [0.5, 0.3, 0.2]}
