"""A benchmark for every machine: `make bench` takes a few minutes and writes a table of ratios and a chart.

    python -m benchmarks [--home DIR] [--rows 1000]

Each line is the speed of this job relative to a reference that is measured in the same run; 1.0 is as fast.
"""

import argparse
import os
import statistics
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks import HOME, checkpoints, corpus, decode, peers, throughput

_WIDTH, _LINE, _LEFT, _UNIT = 900, 30, 380, 80  # pixels; _UNIT is a ratio of 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--rows", type=int, default=1000)
    args = parser.parse_args()
    ratios = [*decoding(), *commands(args.home, args.rows)]
    for name, ratio in ratios:
        print(f"{ratio:6.2f}  {name}")
    draw(ratios).save(args.home / "bench.png")
    print(f"chart: {args.home / 'bench.png'}")


def decoding() -> list[tuple[str, float]]:
    rates = decode.measured(corpus.pictures(64), rounds=3)
    reference = rates[decode.REFERENCE]
    return [
        (f"{name} canvases from JPEG over transformers' processors", ratio(rates[f"canvas: {name}"], reference))
        for name in ("exact", "fast")
    ]


def commands(home: Path, rows: int) -> list[tuple[str, float]]:
    seconds = dict(peers.commands(home, rows, rows // 4, "small"))
    ours = seconds.pop("coyo-jobs")
    source, weights = home / f"corpus-{rows}x{rows // 4}", checkpoints.write(home / "small", "small")
    config = throughput.job(source, home / "out", weights)
    bare = throughput.bare(config, rows, os.cpu_count() or 1)
    steady = throughput.ours(source, home / f"bench-{os.getpid()}", weights, [])["steady"]
    peer_ratios = [(f"whole command over {name}", theirs / ours) for name, theirs in seconds.items()]
    return [*peer_ratios, ("steady rows/s over the bare loop, without Ray", steady / bare)]


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def draw(ratios: list[tuple[str, float]]) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _LINE * (len(ratios) + 1)), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for line, (name, value) in enumerate(ratios):
        y = _LINE * line + 8
        pen.text((8, y), name, "black", font)
        pen.rectangle((_LEFT, y, min(_WIDTH - 50, _LEFT + value * _UNIT), y + 14), "#3a6ea5")
        pen.text((min(_WIDTH - 46, _LEFT + value * _UNIT + 4), y), f"{value:.2f}", "black", font)
    pen.line((_LEFT + _UNIT, 0, _LEFT + _UNIT, _LINE * len(ratios)), "#c0392b", 2)
    pen.text((_LEFT + _UNIT + 4, _LINE * len(ratios)), "1.0: as fast as the reference", "#c0392b", font)
    return image


if __name__ == "__main__":
    main()
