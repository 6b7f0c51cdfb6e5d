"""What all sections share: the models, the table of what was found, and the JSON beside it."""

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch

from benchmarks import checkpoints
from benchmarks.gpu.batches import block
from jobs.models import Spec
from jobs.models.annotator import Annotator, ExecutionOptions, pixels_of


class Bench:
    """One run. `rates` keeps what later sections compare with."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.cuda, self.batch, self.turns = args.device == "cuda", args.batch, args.turns
        self.device, self.out, self.photos, self.size = torch.device(args.device), args.out, args.photos, args.size
        self.home, self.began = args.home, time.monotonic()
        self.rates: dict[str, float] = {}
        self.best_vit: Any = None  # set by `vit`, as a function from pixels to what the labeller gives
        self._found: list[dict[str, Any]] = []
        self.out.mkdir(parents=True, exist_ok=True)

    @cached_property
    def specs(self) -> tuple[Spec, Spec]:
        return checkpoints.specs(checkpoints.write(self.home / self.size, self.size), "float16")

    @cached_property
    def eager(self) -> Annotator:
        return self.annotator()

    def annotator(self, **how: Any) -> Annotator:
        threads = 2 if self.cuda else 1
        return Annotator(
            self.specs, ExecutionOptions(**{"device": self.device.type, "threads": threads, "batch": self.batch, **how})
        )

    def models(self, annotator: Annotator) -> tuple[Any, Any]:
        """The labeller and the embedder."""
        labeller, embedder = annotator._models
        return labeller, embedder

    def resident(self) -> list[torch.Tensor]:
        """A batch of pixels for each model, on the device."""
        table = block(self.specs, self.batch)
        return [pixels_of(table, spec.canvas.name).to(self.device) for spec in self.specs]

    def say(self, name: str, value: float | str, unit: str = "", note: str = "") -> None:
        self._found.append({"name": name, "value": value, "unit": unit, "note": note})
        told = value if isinstance(value, str) else f"{value:10.2f}"
        print(f"  {name:52s} {told} {unit}  {note}", flush=True)

    def section(self, name: str, run: Callable[["Bench"], None]) -> None:
        """One that fails says why, and the next begins."""
        print(f"[{name}] at {time.monotonic() - self.began:.0f} s", flush=True)
        self._found, since, error = [], time.monotonic(), None
        try:
            with torch.inference_mode():
                run(self)
        except Exception:  # noqa: BLE001 - told, and kept with what was found before
            error = traceback.format_exc()
            print(error, flush=True)
        line = {"section": name, "seconds": round(time.monotonic() - since, 1), "found": self._found, "error": error}
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.free()

    def free(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def on(self, stream: Any) -> Any:
        return torch.cuda.stream(stream) if stream else nullcontext()
