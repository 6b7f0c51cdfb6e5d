"""Compare the whole commands `clip-retrieval inference` and `coyo-jobs run` on the same tars and CLIP model.

    python -m benchmarks.clip_retrieval --other VENV/bin/python [--rows 1000] [--rounds 3] [--home DIR]

VENV has clip-retrieval and its own torch: `pip install torch torchvision clip-retrieval "setuptools<70"`. The model has
the architecture of CLIP ViT-B/32, random weights and OpenAI's tokenizer, and is loaded by `hf_clip:`. Both embed images
and texts in batches of 32. clip-retrieval writes .npy files, this job Parquet. The embeddings are compared, too.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks import HOME, corpus
from jobs.config import JobConfig
from jobs.recipe import recipe_template

BATCH = 32
_VOCABULARY = """
import json, sys
from clip.simple_tokenizer import SimpleTokenizer
pieces = SimpleTokenizer()
merges = sorted(pieces.bpe_ranks, key=pieces.bpe_ranks.get)
print(json.dumps([pieces.encoder, [" ".join(pair) for pair in merges]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    weights, source = args.home / "clip", args.home / f"tars-{args.rows}"
    checkpoint(weights, args.other)
    tars(source, args.rows)
    ratios = []
    for _ in range(args.rounds):
        out = args.home / f"clip-{time.time_ns()}"
        seconds = [
            timed(theirs(args.other, source, out / "theirs", weights)),
            timed(ours(source, out / "ours", weights)),
        ]
        ratios.append(seconds[0] / seconds[1])
        print(
            f"clip-retrieval {seconds[0]:7.1f} s   coyo-jobs {seconds[1]:7.1f} s   {ratios[-1]:.2f} times as fast",
            flush=True,
        )
        print(f"lowest cosine between the embeddings of both tools: {lowest_cosine(out, args.rows):.5f}")
    print(f"{args.rows:,} rows: {statistics.median(ratios):.2f} times as fast")


def checkpoint(folder: Path, other: Path) -> None:
    """Write a CLIP checkpoint for from_pretrained, unless it exists."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    if (folder / "config.json").exists():
        return
    torch.manual_seed(0)
    output = subprocess.run([other, "-c", _VOCABULARY], check=True, capture_output=True, text=True).stdout
    vocabulary, merges = json.loads(output.splitlines()[-1])
    config = CLIPConfig()  # ViT-B/32
    config.text_config.eos_token_id, config.text_config.bos_token_id = 49407, 49406
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tars(folder: Path, rows: int, per_shard: int = 250) -> None:
    """Write `NNNNN.tar` with the images and texts of the other benchmarks."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = corpus.texts(rows)
    for first in range(0, rows, per_shard):
        with tarfile.open(folder / f"{first // per_shard:05d}.tar", "w") as tar:
            for row in range(first, min(rows, first + per_shard)):
                for name, data in (("jpg", corpus.picture(row)), ("txt", texts[row].encode())):
                    member = tarfile.TarInfo(f"{row:09d}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def theirs(other: Path, source: Path, output: Path, weights: Path) -> list[str]:
    last = len(list(source.glob("*.tar"))) - 1
    options = {
        "input_dataset": f"{source}/{{00000..{last:05d}}}.tar", "input_format": "webdataset", "output_folder": output,
        "clip_model": f"hf_clip:{weights}", "batch_size": BATCH, "num_prepro_workers": 2, "enable_metadata": False,
        "enable_wandb": False, "write_batch_size": 10**6, "output_partition_count": 1,
    }  # fmt: skip
    return [
        str(other.parent / "clip-retrieval"),
        "inference",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def ours(source: Path, output: Path, weights: Path) -> list[str]:
    tree = yaml.safe_load(recipe_template(str(source), str(output)))
    tree["source"]["keep"] = []  # the tars have no json
    tree["models"] = {"vit": None, "align": {"weights": str(weights)}}
    tree["compute"] = {**(tree.get("compute") or {}), "batch_size": BATCH}
    path = output.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(JobConfig.from_dict(tree).to_yaml())
    return [sys.executable, "-m", "jobs", "run", str(path)]


def timed(command: list[str]) -> float:
    since = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: code {done.returncode}\n{done.stderr[-3000:]}")
    return time.perf_counter() - since


def lowest_cosine(out: Path, rows: int) -> float:
    """Return the lowest cosine over all rows, of image and of text embeddings."""
    table = pq.read_table(out / "ours" / "rows", columns=["shard", "row", "image_embedding", "text_embedding"])
    table = table.sort_by([("shard", "ascending"), ("row", "ascending")])
    keys = pq.read_table(next((out / "theirs/metadata").glob("*.parquet"))).column("image_path").to_pylist()
    order = np.argsort([int(key) for key in keys])  # two processes wrote them in turns
    cosines = []
    for column, name in (("image_embedding", "img_emb"), ("text_embedding", "text_emb")):
        mine: Any = np.stack(table.column(column).to_pylist()).astype(np.float32)
        other = np.load(next((out / "theirs" / name).glob("*.npy"))).astype(np.float32)[order]
        assert mine.shape == other.shape == (rows, mine.shape[1])
        cosines.append(float((mine * other).sum(1).min()))
    return min(cosines)


if __name__ == "__main__":
    main()
