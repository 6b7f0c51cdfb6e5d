"""Vectors of a batch: of length one, and as Arrow arrays."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

_SHORTEST = 1e-12  # torch's normalize() leaves shorter vectors as they are: next to zero, and no embedding

Array = np.ndarray[Any, Any]


def unit(features: torch.Tensor) -> torch.Tensor:
    """float32 rows of length one; NaN where a row is too short or too long to have a direction."""
    features = features.float()
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where((length > _SHORTEST) & length.isfinite(), length, torch.nan)


def rounded(values: Array, kind: pa.DataType) -> Array:
    """As they are stored: infinite where a number is too large for that."""
    with np.errstate(over="ignore"):
        return values.astype(kind.value_type.to_pandas_dtype())


def fixed(values: Array, absent: Array | None, kind: pa.DataType) -> pa.Array:
    """[n, dim], as they are stored, to n lists of one length; null where absent."""
    mask = None if absent is None or not absent.any() else pa.array(absent)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind, mask=mask)


def lists(values: Array, kept: Array | None = None) -> pa.Array:
    """[n, k] to n lists: of all k, or of those that are kept (bool [n, k])."""
    counts = np.full(len(values), values.shape[1]) if kept is None else kept.sum(1)
    offsets = pa.array(np.concatenate(([0], counts.cumsum())).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel() if kept is None else values[kept]))
