"""Shards with COYO's distribution of sizes and texts, for benchmarks. Images are noise that compresses like photos.

Sizes follow the published quantiles of COYO-700M's shorter side (5 % below 210, half below 395, 95 % below 1,055).
Texts have its mean length of 68 characters; a quarter are repeats. All data is determined by seeds.
"""

import argparse
import io
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_SHORTER_SIDES = (96, 210, 395, 1055, 2400)
_DISTINCT = 256  # images; further rows repeat them under other ids
WORDS = """
a the of and in with for on red blue green black white small large new old vintage photo picture image woman man
girl boy dog cat house car tree water city night day summer winter wedding dress shirt shoes table chair kitchen
garden beach mountain sunset street market food coffee cake birthday christmas happy design pattern vector
illustration logo background abstract wallpaper art print poster canvas handmade leather cotton silver gold stock
free download best top ideas style fashion modern home interior travel hotel room view from at by
""".split()  # noqa: SIM905 - one word per line would fill a page


def side(r: random.Random) -> int:
    """Draw a shorter side, in pixels."""
    return round(float(np.exp(np.interp(r.random(), _QUANTILES, np.log(_SHORTER_SIDES)))))


@lru_cache(maxsize=_DISTINCT)
def picture(seed: int) -> bytes:
    """Return a JPEG of coloured noise: strong at coarse scales and weak at fine ones, as in photos."""
    r, noise = random.Random(f"size {seed}"), np.random.default_rng(seed)
    short = side(r)
    long = min(4000, round(short * np.exp(abs(r.gauss(0.0, 0.33)))))
    width, height = (long, short) if r.random() < 0.6 else (short, long)
    pixels = np.full((height, width, 3), 128.0, np.float32)
    cells = 3
    while cells < short:
        coarse = noise.normal(0, 60 / cells**0.6, (cells, max(1, cells * width // height), 3)).astype(np.float32)
        layers = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        pixels += np.stack([np.asarray(layer) for layer in layers], axis=-1)
        cells *= 2
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=r.choice((75, 80, 85, 90)))
    return buffer.getvalue()


def pictures(count: int, photos: Path | None = None) -> list[bytes]:
    """Return the first `count` JPEG files below a folder, or that many drawn images."""
    images = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))[:count]] if photos else []
    return images or [picture(i) for i in range(count)]


def text(r: random.Random) -> str:
    count = max(1, min(200, round(r.lognormvariate(2.3, 0.65))))
    return " ".join(r.choices(WORDS, k=count))


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts, about a quarter of which are repeats."""
    r = random.Random(f"texts {seed}")
    drawn: list[str] = []
    for _ in range(count):
        drawn.append(r.choice(drawn) if drawn and r.random() < 0.24 else text(r))
    return drawn


def write(folder: Path, rows: int, per_shard: int = 1000) -> int:
    """Write `part-NNNNN.parquet` with id, text and image; keep existing shards. Return the total bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, rows, per_shard):
        path = folder / f"part-{first // per_shard:05d}.parquet"
        if path.exists():
            continue
        count = min(per_shard, rows - first)
        images = [picture((first + i) % _DISTINCT) for i in range(count)]
        sizes = [Image.open(io.BytesIO(image)).size for image in images]
        columns = {
            "id": list(range(first, first + count)),
            "url": [f"https://example.org/{first + i}.jpg" for i in range(count)],
            "text": texts(count, first),
            "width": [width for width, _ in sizes],
            "height": [height for _, height in sizes],
            "image": images,
        }
        pq.write_table(pa.table(columns), path, row_group_size=128)
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("--per-shard", type=int, default=1000)
    args = parser.parse_args()
    print(f"{write(args.folder, args.rows, args.per_shard):,} bytes")
