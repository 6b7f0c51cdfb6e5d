"""What the pages say a program prints is what it prints, numbers apart; what they say runs, runs."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from jobs import cli
from tests.support.pages import ROOT, Block, blocks

_SAME = (
    (r"/\S*/demo/", "demo/"),  # wherever it was run
    (r"\d{8}T\d{6}-[0-9a-f]{6} on \S+", "RUN"),
    (r"so (a GPU|more cores) would help", "ADVICE"),  # by what was faster on that day
    (r"a GPU would help|more (CPU )?cores would help", "ADVICE"),
    (r"\d[\d,.:]*", "0"),
    (r" +", " "),
)
SHOWN = [block for block in blocks("text") if block.output_of]


def masked(text: str) -> list[str]:
    for pattern, by in _SAME:
        text = re.sub(pattern, by, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def in_order(wanted: list[str], lines: list[str]) -> str:
    """The first of the wanted lines that does not come after the others; empty when all do."""
    left = iter(lines)
    return next((line for line in wanted if line not in left), "")


@pytest.mark.parametrize("block", [block for block in SHOWN if block.output_of == "demo"], ids=str)
def test_the_demo_prints_what_the_pages_show(block: Block, demo_run: tuple[Path, str]) -> None:
    wanted = [line for line in masked(block.text) if line != "..."]
    assert not in_order(wanted, masked(demo_run[1]))


@pytest.mark.parametrize("block", [block for block in SHOWN if block.output_of != "demo"], ids=str)
def test_commands_print_what_the_pages_show(block: Block, at_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(shlex.split(block.output_of)[1:])
    assert masked(block.text) == [line.removeprefix("already complete: ") for line in masked(capsys.readouterr().out)]


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_runs(block: Block, at_demo: Path) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "__page__"})


def test_the_script_writes_pictures(at_demo: Path, tmp_path: Path) -> None:
    pictures = runpy.run_path(str(ROOT / "examples" / "pictures.py"))["pictures"]
    written = pictures("demo/out-8x100", tmp_path / "pictures", "similarity > 0.8", 3)
    assert len(written) == 3
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stem.partition(" ")[2] in path.with_suffix(".txt").read_text()  # a scene's label is in its caption


def test_the_notebook_runs(at_demo: Path) -> None:
    """Its cells, in order; what is stored of it has no outputs."""
    notebook = json.loads((ROOT / "examples" / "pictures.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names: dict[str, object] = {"__name__": "__notebook__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["sheet"].size == (1080, 200)  # type: ignore[attr-defined]


def test_the_output_has_the_files_that_the_reference_names(at_demo: Path) -> None:
    text = (ROOT / "docs" / "reference" / "output.md").read_text()
    named = set(re.findall(r"^out/([\w.]+)", text, re.MULTILINE))
    assert {path.name for path in (at_demo / "demo" / "out-8x100").iterdir()} <= named
