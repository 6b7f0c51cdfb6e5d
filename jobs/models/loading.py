"""Load checkpoints with transformers, completely or not at all, and derive their canvas and scale."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from jobs.errors import CheckpointError
from jobs.images.canvas import Canvas, Scale, paint

_TOLERANCE = 1e-5  # for values around 1: allows float32 rounding, nothing else
_HINT = "check that the checkpoint is complete and of this model"


@cache
def transformers() -> Any:
    """Import transformers, and silence its log.

    If torchvision is installed but cannot be imported, hide it first: otherwise importing ViT fails too.
    """
    try:
        import torchvision  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except (ImportError, RuntimeError, OSError):  # RuntimeError: built for another version of torch
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


@contextmanager
def checkpoint_errors(name: str, message: str = "does not load", hint: str = _HINT) -> Iterator[None]:
    """Translate what transformers and torch raise for a bad checkpoint into CheckpointError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    bad_checkpoint = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError)
    try:
        yield
    except CheckpointError:
        raise
    except ImportError as exc:
        raise CheckpointError(
            f"{name}: {message}: {_first_line(exc)}",
            "install the missing package on every machine, or name another checkpoint",
        ) from exc
    except (*bad_checkpoint, StrictDataclassError, SafetensorError) as exc:
        raise CheckpointError(f"{name}: {message}: {_first_line(exc)}", hint) from exc
    except pickle.UnpicklingError as exc:
        raise CheckpointError(f"{name}: its files are damaged: {_first_line(exc)}") from exc


def load_config(folder: str, name: str) -> Any:
    """Load config.json as transformers' config object. Raises CheckpointError."""
    with checkpoint_errors(name):
        return transformers().AutoConfig.from_pretrained(folder)


def load_model(auto: Any, folder: str, name: str) -> Any:
    """Load a model with transformers' `auto` class, float32, in eval mode.

    Raises CheckpointError if a tensor is missing or has the wrong shape.
    """
    import torch

    with checkpoint_errors(name):
        loaded, info = auto.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # otherwise it raises without naming the tensors
        )
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(problem):
            keys = sorted(map(_describe_key, info[problem]))
            some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise CheckpointError(f"{name}: {problem.replace('_', ' ')}: {some}", "these weights would be random")
    return loaded.eval()


def _describe_key(key: Any) -> str:
    """`key` is a tensor's name, or (name, shape in the files, shape in the model)."""
    return key if isinstance(key, str) else f"{key[0]} is {tuple(key[1])} and should be {tuple(key[2])}"


def load_canvas_and_scale(folder: str, name: str, config: Any) -> tuple[Canvas, Scale]:
    """Derive canvas and scale from the checkpoint's image processor, and compare their pixels with the processor's.

    Raises CheckpointError for a processor that a Canvas and a Scale cannot reproduce.
    """
    with checkpoint_errors(name):
        processor = transformers().AutoImageProcessor.from_pretrained(folder, config=config, backend="pil")
        _check_output_names(processor, name)
        canvas, scale = _canvas(processor, name), _scale(processor)
        _compare(processor, canvas, scale, name)
    return canvas, scale


def _check_output_names(processor: Any, name: str) -> None:
    """Refuse NaFlex (a variable number of patches), DETR (a mask beside the pixels) and ImageGPT (colour ids)."""
    if processor.model_input_names != ["pixel_values"]:
        outputs = ", ".join(processor.model_input_names)
        raise CheckpointError(
            f"{name}: {type(processor).__name__} gives {outputs}; only pixel_values is supported",
            "name a checkpoint that takes pixel_values of one size; for SigLIP 2, one without naflex in its name",
        )


def _canvas(processor: Any, name: str) -> Canvas:
    size, crop = _size_dict(processor.size), _size_dict(getattr(processor, "crop_size", None))
    squash = (size["height"], size["width"]) if processor.do_resize and "height" in size else None
    edge = size.get("shortest_edge") if processor.do_resize else None
    if processor.do_resize and "longest_edge" in size:
        raise CheckpointError(f"{name}: {type(processor).__name__}: a limit on the longest edge cannot be reproduced")
    crop_size = (crop["height"], crop["width"]) if getattr(processor, "do_center_crop", None) and crop else None
    crop_pct = getattr(processor, "crop_pct", None)
    if crop_pct and edge:  # ConvNeXt: below 384 a larger resize and a crop, from 384 on a squash
        squash, edge, crop_size = (
            (None, int(edge / crop_pct), (edge, edge)) if edge < 384 else ((edge, edge), None, None)
        )
    try:
        return Canvas(squash, edge, crop_size, int(processor.resample))
    except ValueError as exc:
        raise CheckpointError(f"{name}: {type(processor).__name__}: {exc}") from exc


def _scale(processor: Any) -> Scale:
    factor = np.full(3, processor.rescale_factor if processor.do_rescale else 1.0)
    offset = np.full(3, -1.0 if getattr(processor, "rescale_offset", False) else 0.0)
    mean, std = np.asarray(processor.image_mean, float), np.asarray(processor.image_std, float)
    if processor.do_normalize:
        factor, offset = factor / std, (offset - mean) / std
    if getattr(processor, "include_top", False):  # EfficientNet's classifier divides by std a second time
        factor, offset = factor / std, offset / std
    return Scale(tuple(factor.tolist()), tuple(offset.tolist()))


def _compare(processor: Any, canvas: Canvas, scale: Scale, name: str) -> None:
    noise = np.random.default_rng(0)
    for height, width in ((61, 97), (530, 410), (30, 900), (900, 30)):
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8), "RGB")
        expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        factor, offset = np.array(scale.factor, np.float32), np.array(scale.offset, np.float32)
        ours = (paint(image, canvas).astype(np.float32) * factor + offset).transpose(2, 0, 1)
        limit = _TOLERANCE * max(1.0, np.abs(expected).max())
        if expected.shape != ours.shape or np.abs(expected - ours).max() > limit:
            raise CheckpointError(
                f"{name}: {type(processor).__name__} prepares pixels in a way that this job cannot reproduce",
                f"for a {width}x{height} image it gives {expected.shape}, {canvas} gives {ours.shape}",
            )


def _size_dict(size: Any) -> dict[str, int]:
    """transformers keeps sizes as a dict or as an object with attributes; return a dict without None."""
    edges = (
        dict(size) if isinstance(size, dict) else {name: getattr(size, name, None) for name in _EDGES} if size else {}
    )
    return {name: value for name, value in edges.items() if value is not None}


_EDGES = ("height", "width", "shortest_edge", "longest_edge")


def _first_line(exc: Exception) -> str:
    text = str(exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
