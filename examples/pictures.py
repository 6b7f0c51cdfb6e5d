"""Write the pictures of some rows of a finished output as files, each named by its first label.

    python examples/pictures.py demo/out-8x100 pictures --where "similarity > 0.93" --count 12

The rows come from the output, their images from the source of the job, by address.
"""

import argparse
import io
import json
from pathlib import Path

import pandas
from PIL import Image

from jobs.output.identity import load_job
from jobs.sources.discover import discover
from jobs.sources.lookup import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="a finished output, local or s3://")
    parser.add_argument("folder", type=Path, help="where to put the pictures")
    parser.add_argument("--where", default="similarity == similarity", help="which rows, as pandas' query takes it")
    parser.add_argument("--count", type=int, default=12, help="pictures to write (12)")
    args = parser.parse_args()
    for path in pictures(args.output, args.folder, args.where, args.count):
        print(path)


def pictures(output: str, folder: Path, where: str, count: int) -> list[Path]:
    """The paths of what was written, the most similar pair of image and text first."""
    rows = pandas.read_parquet(f"{output}/rows").query(where).nlargest(count, "similarity")
    storage, config = load_job(output)
    names = json.loads(storage.read(f"{output}/_labels.json"))
    addresses = list(zip(rows["shard"], rows["row"], strict=True))
    texts, images = read_rows(storage, discover(storage, config.source), addresses, config.fetch)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for rank, (address, labels) in enumerate(zip(addresses, rows["labels"], strict=True)):
        path = folder / f"{rank:03d} {names[labels[0]]}.png"
        Image.open(io.BytesIO(images[address])).convert("RGB").save(path)
        path.with_suffix(".txt").write_text(texts[address] or "")
        written.append(path)
    return written


if __name__ == "__main__":
    main()
