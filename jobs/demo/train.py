"""Train the two embedded checkpoints on the demo's training scenes, and save them in the hub's layout.

    python -m jobs.demo.train vit   --out jobs/demo/weights/vit
    python -m jobs.demo.train align --out jobs/demo/weights/align

Each takes about ten minutes on one core. No job runs this: the results are committed in jobs/demo/weights.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AlignConfig,
    AlignModel,
    AlignProcessor,
    BertTokenizerFast,
    EfficientNetImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from jobs.demo import scenes

SIDE = 64  # pixels
RESAMPLE = Image.Resampling.BILINEAR


def vit_model() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            image_size=SIDE,
            patch_size=8,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=384,
            id2label=dict(enumerate(scenes.LABELS)),
            label2id={label: i for i, label in enumerate(scenes.LABELS)},
        )
    )


def align_model(vocab_size: int) -> AlignModel:
    text = dict(
        vocab_size=vocab_size,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    vision = dict(
        image_size=SIDE,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        kernel_sizes=[3, 3, 3, 3, 3],
        in_channels=[32, 16, 32, 48, 80],
        out_channels=[16, 32, 48, 80, 128],
        strides=[1, 2, 2, 2, 1],
        num_block_repeats=[1, 1, 2, 2, 1],
        expand_ratios=[1, 4, 4, 4, 4],
        hidden_dim=128,
        batch_norm_momentum=0.1,
        drop_connect_rate=0.0,
    )
    config = AlignConfig(text_config=text, vision_config=vision, projection_dim=128, temperature_init_value=0.07)
    return AlignModel(config)


def vocabulary() -> list[str]:
    """WordPiece tokens: every word of the captions, then single characters, so that any text can be tokenised."""
    words = " ".join(
        [*scenes.COLORS, *scenes.SHAPES, *scenes.SIDES, *scenes.BACKGROUNDS, "a small large on background"]
    )
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*sorted(set(words.split()) - set(letters)), *letters, *(f"##{c}" for c in letters), *".,!?'\"-()&/"]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]


def canvases(count: int, kind: str) -> np.ndarray:
    """uint8 [count, 64, 64, 3]: the pixels that the checkpoint's own image processor would prepare."""
    out = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for seed in range(count):
        image = scenes.draw(scenes.scene(seed))
        if kind == "vit":
            out[seed] = np.asarray(image.resize((SIDE, SIDE), RESAMPLE))
        else:
            out[seed] = np.asarray(image.resize((76, 76), RESAMPLE).crop((6, 6, 70, 70)))
    return out


def batches(count: int, size: int, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each step's number and `size` random scene numbers below `count`."""
    rng = np.random.default_rng(0)
    for step in range(steps):
        yield step, rng.integers(0, count, size)


def pixels(stack: np.ndarray) -> torch.Tensor:
    """uint8 [n, 64, 64, 3] -> float32 [n, 3, 64, 64] in [-1, 1].

    A small random shift keeps the model from memorising positions.
    """
    dx, dy = np.random.randint(-3, 4, 2)
    shifted = np.roll(stack, (dx, dy), (1, 2))
    return torch.from_numpy(shifted).permute(0, 3, 1, 2).float() / 127.5 - 1


def make_optimiser(
    model: nn.Module, steps: int, rate: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, with 200 steps of linear warmup times a cosine decay over all steps."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)

    def warm_cosine(step: int) -> float:
        return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine)


def train_vit(out: Path, count: int, steps: int) -> None:
    stack = canvases(count, "vit")
    truth = torch.tensor([scenes.LABELS.index(scenes.scene(seed).label) for seed in range(count)])
    model = vit_model().train()
    optimiser, schedule = make_optimiser(model, steps, 1.5e-3)
    for step, rows in batches(count, 128, steps):
        loss = nn.functional.cross_entropy(model(pixel_values=pixels(stack[rows])).logits, truth[rows])
        _update(model, loss, optimiser, schedule, step)
    model.eval().save_pretrained(out)
    side = {"height": SIDE, "width": SIDE}
    ViTImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(out)


def train_align(out: Path, count: int, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(out / "vocab.txt"), model_max_length=64)
    stack = canvases(count, "align")
    tokens = tokenizer([scenes.scene(seed).caption for seed in range(count)], padding=True, return_tensors="pt")
    model = align_model(len(tokenizer)).train()
    optimiser, schedule = make_optimiser(model, steps, 2e-3)
    for step, rows in batches(count, 192, steps):
        text = {name: values[rows] for name, values in tokens.items()}
        loss = model(pixel_values=pixels(stack[rows]), **text, return_loss=True).loss
        _update(model, loss, optimiser, schedule, step)
        model.temperature.data.clamp_(0.01, 0.2)
    model.eval().save_pretrained(out)
    square, crop = {"height": 76, "width": 76}, {"height": SIDE, "width": SIDE}
    image_processor = EfficientNetImageProcessorPil(
        size=square, crop_size=crop, do_center_crop=True, resample=RESAMPLE, rescale_factor=1 / 127.5,
        rescale_offset=True, do_normalize=False, include_top=False,
    )  # fmt: skip
    AlignProcessor(image_processor, tokenizer).save_pretrained(out)


def _update(
    model: nn.Module,
    loss: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    step: int,
) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()
    if step % 100 == 0:
        print(f"step {step} loss {loss.item():.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["vit", "align"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=3_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    np.random.seed(0)
    {"vit": train_vit, "align": train_align}[args.model](args.out, args.scenes, args.steps)


if __name__ == "__main__":
    main()
