"""The pages as the tests see them: blocks, inline code, links, and shown outputs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"(?:<!-- output: ([^\n]+) -->\n)?^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block; `output_of` is the command whose output it shows."""

    page: Path
    kind: str
    text: str
    output_of: str
    number: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.kind}:{self.number}"


def pages() -> list[Path]:
    """Every page that a reader may come to."""
    tops = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")]
    return [*tops, *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def text_of(page: Path) -> str:
    return page.read_text()


def blocks(kind: str) -> list[Block]:
    return [block for page in pages() for block in _blocks(page) if block.kind == kind]


def _blocks(page: Path) -> Iterator[Block]:
    for number, found in enumerate(_FENCE.finditer(text_of(page)), 1):
        output_of, indent, kind, text = found.groups()
        yield Block(page, kind, re.sub(f"^{indent}", "", text, flags=re.MULTILINE), output_of or "", number)


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", text_of(page))


def inline(page: Path) -> list[str]:
    """What is between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, as mkdocs and GitHub make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
