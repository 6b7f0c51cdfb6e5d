"""mkdocs calls this while it builds the site: pages are filled with what the code says."""

from typing import Any

from mkdocs.structure.files import File

from docs.generate.imports import ROOT
from docs.generate.reference import filled

_SHEET = "jobs/demo/contact_sheet.png"  # the README shows it, and a page does


def on_files(files: Any, config: Any) -> None:
    files.append(File.generated(config, "assets/contact_sheet.png", abs_src_path=str(ROOT / _SHEET)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    return filled(markdown).replace(f"../../{_SHEET}", "../assets/contact_sheet.png")
