"""What the pages show exists: commands, flags, recipe keys, files, links."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generate.reference import parsers, sections
from jobs import cli
from jobs.config import JobConfig
from tests.support.pages import ROOT, Block, anchors, blocks, inline, links, pages, prose, text_of

_OTHERS = {"docker", "kubectl", "ray", "pip", "source"}  # programs that are not ours
_REQUIRED: dict[str, dict[str, Any]] = {"source": {"path": "s3://bucket/coyo"}, "output": {"path": "s3://bucket/out"}}
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def shown() -> Iterator[str]:
    """Every command of every page: the lines of shell blocks, and what inline code begins with a program of ours."""
    for block in blocks("bash"):
        for line in block.text.splitlines():
            yield from filter(None, (each.strip() for each in line.split(" #")[0].split("&&")))
    for page in pages():
        yield from (code for code in inline(page) if re.match(r"(coyo-jobs|make|python -m) ", code))


COMMANDS = sorted(set(shown()))


def words(command: str) -> list[str]:
    """Without variables before it, and without where its output goes."""
    found = shlex.split(re.sub(r" > [\w./-]+$", "", command))
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        del found[0]
    return [found[0].removeprefix(".venv/bin/"), *found[1:]]


def of(*programs: str) -> list[str]:
    return [command for command in COMMANDS if words(command)[0] in programs]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """`text` is what a program prints, `plain` what no command of these pages prints."""
    found = {block.kind for kind in ("", "text") for block in blocks(kind) if not block.output_of}
    assert not found
    known = {"bash", "yaml", "python", "text", "plain"}
    assert {kind for page in pages() for kind in re.findall(r"^ *```(\w+)$", text_of(page), re.MULTILINE)} <= known


@pytest.mark.parametrize("command", of("coyo-jobs"))
def test_every_shown_command_parses(command: str) -> None:
    called = words(command)[1:]
    if called == ["--help"] or (len(called) == 1 and called[0] in parsers()):  # a mention, not a call
        return
    cli._parser().parse_args(called)


def test_the_examples_are_listed() -> None:
    listed = inline(ROOT / "examples" / "README.md")
    files = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert files - {"README.md"} <= set(listed)


@pytest.mark.parametrize("command", of("make"))
def test_every_shown_target_of_make_is_there(command: str) -> None:
    for target in words(command)[1:]:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("command", of("python"))
def test_every_shown_module_is_there_and_knows_its_flags(command: str) -> None:
    source, rest = _python(words(command)[1:])
    code = source.read_text()
    if source.is_relative_to(ROOT / "benchmarks"):
        code += (ROOT / "benchmarks" / "__init__.py").read_text()
    for flag in (word for word in rest if word.startswith("--")):
        assert flag in code, flag


def _python(arguments: list[str]) -> tuple[Path, list[str]]:
    """(the file that `python -m module` or `python file` runs, what it is given)."""
    if arguments[0] != "-m":
        return ROOT / arguments[0], arguments[1:]
    path = ROOT / arguments[1].replace(".", "/")
    file = path.with_suffix(".py")
    return file if file.is_file() else path / "__main__.py", arguments[2:]


def test_every_program_of_the_pages_is_one_that_is_known() -> None:
    ours = {"coyo-jobs", "make", "python", "ruff"}
    assert {words(command)[0] for command in COMMANDS} <= ours | _OTHERS


@pytest.mark.parametrize("command", of(*_OTHERS))
def test_files_that_shown_commands_name_are_there(command: str) -> None:
    for word in words(command)[1:]:
        if "/" in word and word.split("/")[0] in ("docker", "cluster", "examples"):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_shown_part_of_a_recipe_parses(block: Block) -> None:
    tree = yaml.safe_load(block.text)
    JobConfig.from_dict({**tree, **{name: {**keys, **tree.get(name, {})} for name, keys in _REQUIRED.items()}})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_recipe_and_on_a_page(path: Path) -> None:
    JobConfig.from_dict(yaml.safe_load(path.read_text()))
    assert any(f"<!-- generated: file examples/{path.name} -->" in text_of(page) for page in pages())


def test_every_recipe_key_named_in_the_text_exists() -> None:
    sections = "|".join(JobConfig.model_fields)
    for page in pages():
        for code in inline(page):
            if found := re.fullmatch(rf"(({sections})(\.\w+)+)(:.*)?", code):
                assert _exists(found[1].split(".")), f"{page.name}: {code}"


def _exists(names: list[str]) -> bool:
    known = {f"{section}.{key}" for section, model in sections() for key in model.model_fields}
    return ".".join(names) in known


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"demo", "site"}
    for code in inline(page):
        if re.fullmatch(r"[\w./-]+", code) and "/" in code and code.split("/")[0] in tops:
            assert (ROOT / code).exists(), code


def test_the_readme_is_short_and_begins_with_a_sentence_and_a_command() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.encode()) <= 8192
    assert re.match(r"# coyo-jobs\n\n[^\n]+\.\n\n```bash\nmake demo\n```\n", text)


def test_no_page_is_left_out_of_the_site() -> None:
    """mkdocs warns of such a page, and a warning is an error; here without building the site."""
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert str(page.relative_to(ROOT / "docs")) in nav
        assert prose(page).startswith("# ")


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Anchors and pages that are missing are warnings, and warnings are errors; nothing is loaded from elsewhere."""
    build = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(r'<(?:script|img)[^>]* src="https?:|<link[^>]* href="https?:', page.read_text()), page
