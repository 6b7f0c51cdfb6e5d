"""Shared by all sections: the models, and the results as a table and as JSON."""

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
from jobs.models.annotator import Annotator, ExecutionOptions, canvas_tensor


class Bench:
    """One run of the benchmark. `rates` keeps results that later sections compare with."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.cuda, self.batch, self.turns = args.device == "cuda", args.batch, args.turns
        self.device, self.out, self.photos, self.size = torch.device(args.device), args.out, args.photos, args.size
        self.home, self.began = args.home, time.monotonic()
        self.rates: dict[str, float] = {}
        self.best_vit: Any = None  # set by `vit`: a function from pixels to the labeller's outputs
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
        options = {"device": self.device.type, "threads": threads, "batch_size": self.batch, **how}
        return Annotator(self.specs, ExecutionOptions(**options))

    def models(self, annotator: Annotator) -> tuple[Any, Any]:
        """Return the labeller and the embedder."""
        labeller, embedder = annotator._models
        return labeller, embedder

    def resident(self) -> list[torch.Tensor]:
        """Return a batch of pixels per model, on the device."""
        table = block(self.specs, self.batch)
        return [canvas_tensor(table, spec.canvas.name).to(self.device) for spec in self.specs]

    def say(self, name: str, value: float | str, unit: str = "", note: str = "") -> None:
        self._found.append({"name": name, "value": value, "unit": unit, "note": note})
        told = value if isinstance(value, str) else f"{value:10.2f}"
        print(f"  {name:52s} {told} {unit}  {note}", flush=True)

    def section(self, name: str, run: Callable[["Bench"], None]) -> None:
        """Run a section. Record its error if it fails, and continue."""
        print(f"[{name}] at {time.monotonic() - self.began:.0f} s", flush=True)
        self._found, since, error = [], time.monotonic(), None
        try:
            with torch.inference_mode():
                run(self)
        except Exception:  # noqa: BLE001 - recorded with the earlier results
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
