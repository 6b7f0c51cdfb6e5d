"""The models of a job. A Spec says all that others need to know of one, and can travel; a loaded model cannot.

Only this package, jobs.annotate and the demo's training script import torch and transformers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from jobs.canvas import Canvas, Scale
from jobs.models.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Spec:
    """A checkpoint that was loaded once and found complete: where it is, what it eats, what it gives."""

    kind: str
    weights: Weights
    canvas: Canvas
    scale: Scale
    fields: tuple[pa.Field, ...]
    labels: tuple[str, ...]
    about: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Results:
    """One model's columns for a batch, and which of its rows came out NaN or infinite (bool [n])."""

    columns: dict[str, pa.Array]
    broken: "np.ndarray[Any, np.dtype[np.bool_]]"


class Model(Protocol):
    def __call__(self, pixels: "torch.Tensor", texts: list[str | None]) -> Results:
        """uint8 [n, height, width, 3] on any device and n texts -> n rows of results."""
