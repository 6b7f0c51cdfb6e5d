"""Draw a contact sheet of an output: images with their top labels and best-matching texts."""

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

_MAX_LETTERS = 300  # of a text; two lines show fewer
CANDIDATES = 2000  # first rows of the output, whose texts are matched: the sheet never reads a whole corpus
_COLUMNS, _TILE, _PICTURE, _MARGIN, _BAR = 4, 300, 200, 12, 18
_INK, _GREY, _GREEN, _PAPER = (28, 30, 34), (120, 124, 130), (24, 128, 70), (250, 250, 248)
_LABEL_FILL, _ZERO_SHOT_FILL = (226, 232, 240), (250, 228, 200)


@dataclass(frozen=True)
class Tile:
    """One image of the sheet with its results. Labels and texts come with their probability or cosine."""

    image: Image.Image
    text: str | None
    labels: list[tuple[str, float]]
    zero_shot: list[tuple[str, float]]
    matches: list[tuple[str, float]]


def write_contact_sheet(output: str, to: str, count: int) -> str:
    """Draw `count` rows of an output into the image file `to`. Return `to`. Raises OutputError if there are no rows."""
    tiles = sample(output, count)
    if not tiles:
        raise OutputError(
            f"{output}: no rows with an image", "run the job first; images are read from its source again"
        )
    try:
        _draw(tiles).save(to)
    except (OSError, ValueError) as exc:
        raise OutputError(
            f"{to}: cannot be written as an image: {exc}", "give a .png file in an existing folder"
        ) from exc
    return to


def sample(output: str, count: int) -> list[Tile]:
    """Return `count` rows spread over the first CANDIDATES rows of the output, with their images from the source."""
    storage, config = load_job(output)
    results = _results(storage, config.output.path)
    if results.num_rows == 0:
        return []
    candidates = results.to_pylist()
    texts, images = read_rows(
        storage, discover(storage, config.source), [_address(row) for row in candidates], config.fetch,
        [_address(row) for row in _spread(candidates, count)],
    )  # fmt: skip
    matches = _TextIndex([(texts.get(_address(row)), row.get(schema.TEXT_EMBEDDING)) for row in candidates])
    zero_shot = config.models.align.zero_shot if config.models.align else None
    names, own_names = _label_names(results), zero_shot.labels if zero_shot else ()
    tiles = []
    for row in (row for row in candidates if _address(row) in images):
        address = _address(row)
        try:
            image = decode(images[address], config.decode).image
        except Reject:
            continue  # the url now serves something else
        labels = _named(row, schema.LABELS, schema.LABEL_PROBS, names)
        own = _named(row, schema.ZERO_SHOT_LABELS, schema.ZERO_SHOT_PROBS, own_names)
        tiles.append(Tile(image, texts[address], labels, own, matches.best(row.get(schema.IMAGE_EMBEDDING))))
    return tiles


def _address(row: dict[str, Any]) -> Address:
    return row[schema.SHARD], row[schema.ROW]


def _named(row: dict[str, Any], labels: str, probs: str, names: Sequence[str]) -> list[tuple[str, float]]:
    """Return the first three labels, by name, with their probabilities."""
    pairs = zip(row.get(labels) or [], row.get(probs) or [], strict=True)
    return [(names[i], prob) for i, prob in pairs][:3]


class _TextIndex:
    """Finds the nearest of the candidates' distinct texts."""

    def __init__(self, embedded: Sequence[tuple[str | None, Any]]) -> None:
        distinct = {text: vector for text, vector in embedded if text and vector is not None}
        self._texts = list(distinct)
        self._vectors = np.array(list(distinct.values()), np.float32)

    def best(self, image: Any, count: int = 3) -> list[tuple[str, float]]:
        """Return the nearest texts to an image embedding, with their cosines."""
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


def _draw(tiles: Sequence[Tile]) -> Image.Image:
    lines = -(-len(tiles) // _COLUMNS)
    height = _PICTURE + 190 + _BAR * max(len(tile.zero_shot) for tile in tiles)
    sheet = Image.new("RGB", (_COLUMNS * _TILE + _MARGIN, lines * height + _MARGIN), _PAPER)
    for index, tile in enumerate(tiles):
        _draw_tile(sheet, (index % _COLUMNS * _TILE + _MARGIN, index // _COLUMNS * height + _MARGIN), tile)
    return sheet


def _draw_tile(sheet: Image.Image, at: tuple[int, int], tile: Tile) -> None:
    x, y = at
    width = _TILE - _MARGIN
    picture = tile.image.copy()
    picture.thumbnail((width, _PICTURE))
    sheet.paste(picture, (x + (width - picture.width) // 2, y + (_PICTURE - picture.height) // 2))
    pen, y = ImageDraw.Draw(sheet), y + _PICTURE + 6
    for bars, fill in ((tile.labels, _LABEL_FILL), (tile.zero_shot, _ZERO_SHOT_FILL)):
        for name, prob in bars:
            pen.rectangle((x, y + 2, x + round(prob * width), y + _BAR - 1), fill=fill)
            pen.text((x + 4, y + 2), _fit(pen, f"{prob:.2f}  {name}", width - 8, 13), _INK, _font(13))
            y += _BAR
    y += 4
    for text, cosine in tile.matches:
        ink = _GREEN if text == tile.text else _GREY
        pen.text((x + 4, y), f"{cosine:+.2f}", ink, _font(11))
        for part in _wrap(pen, text[:_MAX_LETTERS], width - 50, 11)[:2]:
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
