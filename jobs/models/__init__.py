"""The models of a job. A Spec says all that others need to know of one, and can travel; a loaded model cannot.

Only this package, jobs.images.torch_resize and the demo's training script import torch or transformers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.images.canvas import Canvas, Scale
from jobs.models.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Spec:
    """A checkpoint that was loaded once and found complete: where it is, what it eats, what it gives.

    `labels` are the names of the label ids it gives, if it gives any.
    """

    kind: str
    weights: Weights
    canvas: Canvas
    scale: Scale
    fields: tuple[pa.Field, ...]
    labels: tuple[str, ...]
    about: dict[str, Any]
    options: dict[str, Any]

    @property
    def columns(self) -> set[str]:
        return {field.name for field in self.fields}


@dataclass(frozen=True)
class Results:
    """One model's columns for a batch, and which of its rows came out NaN or infinite (bool [n])."""

    columns: dict[str, pa.Array]
    broken: "np.ndarray[Any, np.dtype[np.bool_]]"


class Model(ABC):
    """A loaded model. Its call is three steps, so that a second thread can prepare while the device is busy."""

    def __call__(self, pixels: "torch.Tensor", texts: list[str | None]) -> Results:
        """uint8 [n, height, width, 3] on any device and n texts -> n rows of results."""
        return self.columns(self.forward(pixels, self.prepare(texts)))

    @abstractmethod
    def prepare(self, texts: list[str | None]) -> Any:
        """On the CPU: what `forward` needs of the texts."""

    @abstractmethod
    def forward(self, pixels: "torch.Tensor", prepared: Any) -> Any:
        """On the device, one call at a time; what it gives is in the CPU's memory."""

    @abstractmethod
    def columns(self, outputs: Any) -> Results:
        """On the CPU: Arrow arrays."""
