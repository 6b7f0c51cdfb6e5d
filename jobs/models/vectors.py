"""Normalise the vectors of a batch, and convert them to Arrow arrays."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

_MIN_LENGTH = 1e-12  # eps of torch's normalize(), which would return shorter vectors with a norm below 1

Array = np.ndarray[Any, Any]


def l2_normalise(features: torch.Tensor) -> torch.Tensor:
    """[n, dim] -> float32 [n, dim], each row over its L2 norm; NaN for a norm below 1e-12 or not finite."""
    features = features.float()
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where((norm > _MIN_LENGTH) & norm.isfinite(), norm, torch.nan)


def cast_to(values: Array, list_type: pa.DataType) -> Array:
    """Cast to the list type's value type; numbers that are too large for it become infinity."""
    with np.errstate(over="ignore"):
        return values.astype(list_type.value_type.to_pandas_dtype())


def fixed_size_list_array(values: Array, absent: Array | None, list_type: pa.DataType) -> pa.Array:
    """[n, dim] of the list type's value type -> FixedSizeListArray of n; null where `absent` (bool [n])."""
    mask = None if absent is None or not absent.any() else pa.array(absent)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=list_type, mask=mask)


def list_array(values: Array, kept: Array | None = None) -> pa.Array:
    """[n, k] -> ListArray of n, with all k values or those where `kept` (bool [n, k])."""
    counts = np.full(len(values), values.shape[1]) if kept is None else kept.sum(1)
    offsets = pa.array(np.concatenate(([0], counts.cumsum())).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel() if kept is None else values[kept]))
