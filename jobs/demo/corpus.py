"""Write held-out scenes as COYO-like shards: Parquet with COYO's columns, and tars in img2dataset's layout.

Some images are broken on purpose (an error page, a truncated file, a missing file), as in every real download.
"""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.demo import scenes

BROKEN_FRACTION = 0.02
_HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>gone</body></html>"


@dataclass(frozen=True)
class Row:
    """One image-text pair. `image` is None for a failed download; `label` is the true class."""

    id: int
    key: str
    url: str
    text: str
    width: int
    height: int
    image: bytes | None
    label: str


def rows(shard: int, count: int, first_seed: int = scenes.HELD_OUT) -> Iterator[Row]:
    """Yield the `count` rows of one shard. The same arguments yield the same bytes."""
    for index in range(count):
        seed = first_seed + shard * count + index
        scene = scenes.scene(seed)
        rng = random.Random(f"row {seed}")
        extension, encoded = _encode(scene, rng)
        image: bytes | None = encoded
        if rng.random() < BROKEN_FRACTION:
            image = rng.choice([_HTML, encoded[: len(encoded) // 3], None])
        key = f"{shard:05d}{index:04d}"
        spark_partition = rng.randrange(1024)  # COYO's ids have the form of Spark's: partition << 33 | row
        yield Row(
            id=(spark_partition << 33) + shard * count + index,
            key=key,
            url=f"https://example.org/scenes/{key}.{extension}",
            text=scene.caption,
            width=scene.size[0],
            height=scene.size[1],
            image=image,
            label=scene.label,
        )


def write_parquet(folder: Path, shards: int, count: int) -> None:
    """Write `part-NNNNN.parquet` with the image bytes and those columns of COYO-700M that the demo knows."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        table = pa.Table.from_pylist(
            [{name: getattr(row, name) for name in _COYO.names} for row in rows(shard, count)],
            schema=_COYO,
        )
        pq.write_table(table, folder / f"part-{shard:05d}.parquet", compression="snappy", row_group_size=128)
    (folder / "_SUCCESS").touch()


def write_tars(folder: Path, shards: int, count: int) -> None:
    """Write `NNNNN.tar` with .jpg or .png, .json and .txt members; like img2dataset, skip failed downloads."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows(shard, count):
                if row.image is None:
                    continue
                metadata = {
                    "id": row.id,
                    "key": row.key,
                    "url": row.url,
                    "caption": row.text,
                    "width": row.width,
                    "height": row.height,
                }
                metadata["sha256"] = hashlib.sha256(row.image).hexdigest()
                _add(tar, f"{row.key}.{row.url.rpartition('.')[2]}", row.image)
                _add(tar, f"{row.key}.json", json.dumps(metadata).encode())
                _add(tar, f"{row.key}.txt", row.text.encode())


_COYO = pa.schema(
    [
        ("id", pa.int64()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.binary()),
    ]
)


def _encode(scene: scenes.Scene, rng: random.Random) -> tuple[str, bytes]:
    """Return the file's extension and bytes: JPEG for 85 % of the scenes, PNG for the others."""
    buffer = io.BytesIO()
    image = scenes.draw(scene)
    if rng.random() < 0.85:
        image.save(buffer, "JPEG", quality=rng.randint(75, 95))
        return "jpg", buffer.getvalue()
    image.save(buffer, "PNG", compress_level=4)
    return "png", buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(data), 1_700_000_000
    tar.addfile(member, io.BytesIO(data))
