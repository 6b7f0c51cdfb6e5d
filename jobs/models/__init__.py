"""The models of a job. A Spec describes a checkpoint and can be pickled; a Model is loaded on one device.

Only this package, jobs.images.torch_resize, jobs.commands.reference and jobs.demo.train import torch or transformers.
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
    """A checkpoint that was loaded once and proved complete: its weights, its input and its output columns.

    `labels` are the class names by label id, empty for a model without labels. `metadata` goes into the footers and
    the summary of the output. `options` is what the loaded model needs besides.
    """

    kind: str
    weights: Weights
    canvas: Canvas
    scale: Scale
    fields: tuple[pa.Field, ...]
    labels: tuple[str, ...]
    metadata: dict[str, Any]
    options: dict[str, Any]

    @property
    def column_names(self) -> set[str]:
        return {field.name for field in self.fields}


@dataclass(frozen=True)
class Results:
    """One model's columns for a batch of n rows; `non_finite` (bool [n]) marks rows with NaN or infinity."""

    columns: dict[str, pa.Array]
    non_finite: "np.ndarray[Any, np.dtype[np.bool_]]"


class Model(ABC):
    """A loaded model. A call has three steps, so that a second thread can prepare while the device is busy."""

    def __call__(self, pixels: "torch.Tensor", texts: list[str | None]) -> Results:
        """uint8 [n, height, width, 3] on any device and n texts -> results of n rows."""
        return self.to_results(self.forward(pixels, self.prepare(texts)))

    @abstractmethod
    def prepare(self, texts: list[str | None]) -> Any:
        """Make the text input of `forward` from n texts, on the CPU."""

    @abstractmethod
    def forward(self, pixels: "torch.Tensor", prepared: Any) -> Any:
        """Run the model on the device; return its outputs in CPU memory."""

    @abstractmethod
    def to_results(self, outputs: Any) -> Results:
        """Convert the outputs of `forward` to Arrow arrays, on the CPU."""
