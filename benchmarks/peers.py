"""Compare whole commands: scripts that a user might write, and this job, on the same shards and checkpoints.

    python -m benchmarks.peers [--rows 2000] [--rounds 1] [--home DIR] [--size small]

- pipeline: `datasets` streams the shards; transformers' `pipeline` labels, AlignProcessor and AlignModel embed.
- ray-data: read_parquet, map_batches with the models' processors on CPU, an actor with both models, write_parquet,
  in the style of Ray's own image-embedding example.

Both write Parquet with labels and embeddings. Neither handles rejects or can resume.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import checkpoints, corpus
from benchmarks.throughput import arguments, job

BATCH = 32


def main() -> None:
    parser = arguments(__doc__, rows=2000)
    parser.add_argument("--only", choices=sorted(PEERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    source = args.home / f"corpus-{args.rows}x{args.per_shard}"
    weights = args.home / args.size
    if args.only:
        PEERS[args.only](source, args.home / f"out-{args.only}-{os.getpid()}", weights)
        return
    times_by_command: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, seconds in commands(args.home, args.rows, args.per_shard, args.size):
            times_by_command.setdefault(name, []).append(seconds)
            print(f"{name:10s} {seconds:7.1f} s", flush=True)
    print(f"{args.rows:,} rows, {os.cpu_count()} cores, {args.size} models; whole commands")
    for name, times in times_by_command.items():
        ratios = [theirs / ours for theirs, ours in zip(times, times_by_command["coyo-jobs"], strict=True)]
        rate = args.rows / statistics.median(times)
        print(f"{name:10s} {rate:7.1f} rows/s   coyo-jobs is {statistics.median(ratios):.2f} times as fast")


def commands(home: Path, rows: int, per_shard: int, size: str) -> Iterator[tuple[str, float]]:
    """Run each command and yield its name and seconds."""
    source, weights = home / f"corpus-{rows}x{per_shard}", checkpoints.write(home / size, size)
    corpus.write(source, rows, per_shard)
    recipe = home / f"peers-{time.time_ns()}.yaml"
    recipe.write_text(job(source, recipe.with_suffix(""), weights).to_yaml())
    same = ["--home", str(home), "--rows", str(rows), "--per-shard", str(per_shard), "--size", size]
    peers = {name: ["benchmarks.peers", "--only", name, *same] for name in PEERS}
    for name, command in (peers | {"coyo-jobs": ["jobs", "run", str(recipe)]}).items():
        since = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        yield name, time.perf_counter() - since


def pipeline(source: Path, output: Path, weights: Path) -> None:
    import torch
    import transformers
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(source / "*.parquet"), split="train", streaming=True)
    label = transformers.pipeline("image-classification", model=str(weights / "vit"), batch_size=BATCH, top_k=5)
    model = transformers.AlignModel.from_pretrained(weights / "align").eval()
    processor = _align_processor(weights)
    output.mkdir(parents=True)
    writer = None
    for batch in rows.iter(batch_size=BATCH):
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch["image"]]
        tops = label(images)
        given = processor(images=images, text=batch["text"], padding="max_length", truncation=True, return_tensors="pt")
        with torch.inference_mode():
            out = model(**given)
        table = _table(
            batch["id"], [[t["label"] for t in top] for top in tops], [[t["score"] for t in top] for top in tops],
            out.image_embeds.numpy(), out.text_embeds.numpy(),
        )  # fmt: skip
        writer = writer or pq.ParquetWriter(output / "part.parquet", table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def ray_data(source: Path, output: Path, weights: Path) -> None:
    import ray.data

    ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False)

    def prepare(batch: dict[str, Any]) -> dict[str, Any]:
        vit, align = _vit_processor(weights), _align_processor(weights)
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch["image"]]
        given = align(
            images=images, text=list(batch["text"]), padding="max_length", truncation=True, return_tensors="np"
        )
        return {
            "id": batch["id"],
            "vit": vit(images, return_tensors="np")["pixel_values"],
            "align": given["pixel_values"],
            "input_ids": given["input_ids"],
            "attention_mask": given["attention_mask"],
        }

    dataset = ray.data.read_parquet(str(source), columns=["id", "text", "image"])
    dataset = dataset.map_batches(prepare, batch_size=BATCH).map_batches(
        _Models, fn_constructor_args=(weights,), batch_size=BATCH, num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, (os.cpu_count() or 2) // 2)),
    )  # fmt: skip
    dataset.write_parquet(str(output))


class _Models:
    def __init__(self, weights: Path) -> None:
        import torch
        import transformers

        torch.set_num_threads(os.cpu_count() or 1)
        self.torch = torch
        self.vit = transformers.AutoModelForImageClassification.from_pretrained(weights / "vit").eval()
        self.align = transformers.AlignModel.from_pretrained(weights / "align").eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tensor = self.torch.from_numpy
        with self.torch.inference_mode():
            probs, ids = self.vit(tensor(batch["vit"])).logits.softmax(1).topk(5)
            out = self.align(
                pixel_values=tensor(batch["align"]), input_ids=tensor(batch["input_ids"]),
                attention_mask=tensor(batch["attention_mask"]),
            )  # fmt: skip
        return {
            "id": batch["id"],
            "labels": ids.numpy(),
            "label_probs": probs.numpy(),
            "image_embedding": out.image_embeds.numpy(),
            "text_embedding": out.text_embeds.numpy(),
        }


def _vit_processor(weights: Path) -> Any:
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil.from_pretrained(weights / "vit")


def _align_processor(weights: Path) -> Any:
    from transformers import AlignProcessor, AutoTokenizer, EfficientNetImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(weights / "align", model_max_length=64)
    return AlignProcessor(EfficientNetImageProcessorPil.from_pretrained(weights / "align"), tokenizer)


def _table(ids: Any, labels: Any, probs: Any, images: Any, texts: Any) -> pa.Table:
    vectors = {"image_embedding": images, "text_embedding": texts}
    columns = {name: list(values.astype(np.float16)) for name, values in vectors.items()}
    return pa.table({"id": ids, "labels": labels, "label_probs": probs, **columns})


PEERS = {"pipeline": pipeline, "ray-data": ray_data}

if __name__ == "__main__":
    main()
