"""A contact sheet of a finished output: pictures with their top labels and the texts that match them best."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from jobs import schema
from jobs.errors import OutputError, Reject
from jobs.images.decode import decode
from jobs.output import ledger
from jobs.output.identity import load_job
from jobs.output.layout import ROWS
from jobs.sources.discover import discover
from jobs.sources.lookup import Address, read_rows
from jobs.storage import Storage

_LONGEST = 300  # letters of a text that two lines could ever show
CANDIDATES = 2000  # rows whose texts compete, from the first shards: the sheet never reads a whole corpus
_COLUMNS, _TILE, _PICTURE, _MARGIN, _BAR = 4, 300, 200, 12, 18
_INK, _SOFT, _MARK, _PAPER = (28, 30, 34), (120, 124, 130), (24, 128, 70), (250, 250, 248)
_LABEL, _OWN = (226, 232, 240), (250, 228, 200)  # the classifier's, and the recipe's own


@dataclass(frozen=True)
class Pictured:
    """One row of the sheet: what the job said about a picture."""

    image: Image.Image
    text: str | None
    labels: list[tuple[str, float]]
    zero_shot: list[tuple[str, float]]
    matches: list[tuple[str, float]]


def contact_sheet(output: str, to: str, count: int) -> str:
    """Write the sheet as a PNG and return its path. Raises OutputError when there is nothing to show."""
    pictured = sample(output, count)
    if not pictured:
        raise OutputError(
            f"{output}: no rows with a picture", "run the job first; pictures are read from its source again"
        )
    try:
        _draw(pictured).save(to)
    except (OSError, ValueError) as exc:
        raise OutputError(
            f"{to}: cannot be written as a picture: {exc}", "name a .png in a folder that is there"
        ) from exc
    return to


def sample(output: str, count: int) -> list[Pictured]:
    """`count` rows spread over the first CANDIDATES rows of the output, with their pictures from the source."""
    storage, config = load_job(output)
    results = _results(storage, config.output.path)
    if results.num_rows == 0:
        return []
    candidates = results.to_pylist()
    texts, images = read_rows(
        storage, discover(storage, config.source), [_address(row) for row in candidates], config.fetch,
        [_address(row) for row in _spread(candidates, count)],
    )  # fmt: skip
    matches = _Matches([(texts.get(_address(row)), row.get(schema.TEXT_EMBEDDING)) for row in candidates])
    zero_shot = config.models.align.zero_shot if config.models.align else None
    names, own_names = _label_names(results), zero_shot.labels if zero_shot else ()
    pictured = []
    for row in (row for row in candidates if _address(row) in images):
        address = _address(row)
        try:
            image = decode(images[address], config.decode).image
        except Reject:
            continue  # a url that leads to something else today
        labels = _named(row, schema.LABELS, schema.LABEL_PROBS, names)
        own = _named(row, schema.ZERO_SHOT_LABELS, schema.ZERO_SHOT_PROBS, own_names)
        pictured.append(Pictured(image, texts[address], labels, own, matches.best(row.get(schema.IMAGE_EMBEDDING))))
    return pictured


def _address(row: dict[str, Any]) -> Address:
    return row[schema.SHARD], row[schema.ROW]


def _named(row: dict[str, Any], labels: str, probs: str, names: Sequence[str]) -> list[tuple[str, float]]:
    """The first three."""
    pairs = zip(row.get(labels) or [], row.get(probs) or [], strict=True)
    return [(names[i], prob) for i, prob in pairs][:3]


class _Matches:
    """The distinct texts of the candidates, nearest first."""

    def __init__(self, embedded: Sequence[tuple[str | None, Any]]) -> None:
        distinct = {text: vector for text, vector in embedded if text and vector is not None}
        self._texts = list(distinct)
        self._vectors = np.array(list(distinct.values()), np.float32)

    def best(self, image: Any, count: int = 3) -> list[tuple[str, float]]:
        if image is None or not self._texts:
            return []
        cosine = self._vectors @ np.asarray(image, np.float32)
        return [(self._texts[i], float(cosine[i])) for i in np.argsort(-cosine)[:count]]


def _results(storage: Storage, output: str) -> pa.Table:
    tables: list[pa.Table] = []
    for obj in ledger.read(storage, output).objects:
        if obj.folder == ROWS and sum(table.num_rows for table in tables) < CANDIDATES:
            tables.append(pq.read_table(storage.open(obj.entry)))
    return pa.concat_tables(tables).slice(0, CANDIDATES) if tables else pa.table({})


def _label_names(results: pa.Table) -> list[str]:
    metadata = results.schema.metadata or {}
    names: list[str] = json.loads(metadata.get(schema.LABEL_NAMES.encode(), b"[]"))
    return names


def _spread(rows: list[Any], count: int) -> list[Any]:
    return [rows[round(i)] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)))]


def _draw(pictured: Sequence[Pictured]) -> Image.Image:
    lines = -(-len(pictured) // _COLUMNS)
    height = _PICTURE + 190 + _BAR * max(len(row.zero_shot) for row in pictured)
    sheet = Image.new("RGB", (_COLUMNS * _TILE + _MARGIN, lines * height + _MARGIN), _PAPER)
    for index, row in enumerate(pictured):
        _tile(sheet, (index % _COLUMNS * _TILE + _MARGIN, index // _COLUMNS * height + _MARGIN), row)
    return sheet


def _tile(sheet: Image.Image, at: tuple[int, int], row: Pictured) -> None:
    x, y = at
    width = _TILE - _MARGIN
    picture = row.image.copy()
    picture.thumbnail((width, _PICTURE))
    sheet.paste(picture, (x + (width - picture.width) // 2, y + (_PICTURE - picture.height) // 2))
    pen, y = ImageDraw.Draw(sheet), y + _PICTURE + 6
    for bars, fill in ((row.labels, _LABEL), (row.zero_shot, _OWN)):
        for name, prob in bars:
            pen.rectangle((x, y + 2, x + round(prob * width), y + _BAR - 1), fill=fill)
            pen.text((x + 4, y + 2), _fit(pen, f"{prob:.2f}  {name}", width - 8, 13), _INK, _font(13))
            y += _BAR
    y += 4
    for text, cosine in row.matches:
        ink = _MARK if text == row.text else _SOFT
        pen.text((x + 4, y), f"{cosine:+.2f}", ink, _font(11))
        for part in _wrap(pen, text[:_LONGEST], width - 50, 11)[:2]:
            pen.text((x + 44, y), part, ink, _font(11))
            y += 14
        y += 3


def _wrap(pen: ImageDraw.ImageDraw, text: str, width: int, size: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, _font(size)) <= width:
            lines[-1] = longer
        else:
            lines.append(_fit(pen, word, width, size))
    return lines


def _fit(pen: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    while text and pen.textlength(text, _font(size)) > width:
        text = text[:-1]
    return text


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
