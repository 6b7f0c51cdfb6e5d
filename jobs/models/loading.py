"""The one door to transformers: checkpoints load completely or not at all, and say what pixels they want."""

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

_TOLERANCE = 1e-5  # of values around 1: float32 rounding, and nothing else
_WHOLE = "is it a whole checkpoint of this model?"


@cache
def transformers() -> Any:
    """The library, quiet; a torchvision that cannot be imported is marked absent first, or ViT cannot be either."""
    try:
        import torchvision  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except (ImportError, RuntimeError, OSError):  # RuntimeError: built for another torch
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


@contextmanager
def complaints(name: str, what: str = "does not load", hint: str = _WHOLE) -> Iterator[None]:
    """What transformers raises, as one clear error."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    wrong = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError)
    try:
        yield
    except CheckpointError:
        raise
    except ImportError as exc:
        raise CheckpointError(
            f"{name}: {what}: {_first_line(exc)}", "install what it needs on every machine, or name another"
        ) from exc
    except (*wrong, StrictDataclassError, SafetensorError) as exc:
        raise CheckpointError(f"{name}: {what}: {_first_line(exc)}", hint) from exc
    except pickle.UnpicklingError as exc:
        raise CheckpointError(f"{name}: its files are damaged: {_first_line(exc)}") from exc


def config(folder: str, name: str) -> Any:
    with complaints(name):
        return transformers().AutoConfig.from_pretrained(folder)


def model(auto: Any, folder: str, name: str) -> Any:
    """The model in float32, in eval mode. Raises CheckpointError when a tensor is missing or of the wrong shape."""
    import torch

    with complaints(name):
        loaded, info = auto.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else it raises before it says which
        )
    for what in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(what):
            keys = sorted(map(_named, info[what]))
            some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise CheckpointError(f"{name}: {what.replace('_', ' ')}: {some}", "these weights would be random")
    return loaded.eval()


def _named(key: Any) -> str:
    """A tensor's name, or (name, shape in the files, shape in the model)."""
    return key if isinstance(key, str) else f"{key[0]} is {tuple(key[1])} and should be {tuple(key[2])}"


def pixels(folder: str, name: str, config: Any) -> tuple[Canvas, Scale]:
    """Canvas and scale of the checkpoint's image processor, compared with the processor itself.

    Raises CheckpointError for a processor that does something a Canvas and a Scale cannot say.
    """
    with complaints(name):
        processor = transformers().AutoImageProcessor.from_pretrained(folder, config=config, backend="pil")
        _check_kind(processor, name)
        canvas, scale = _canvas(processor, name), _scale(processor)
        _compare(processor, canvas, scale, name)
    return canvas, scale


def _check_kind(processor: Any, name: str) -> None:
    """NaFlex gives patches, as many as an image has; DETR a mask beside the pixels; ImageGPT colours by number."""
    if processor.model_input_names != ["pixel_values"]:
        given = ", ".join(processor.model_input_names)
        raise CheckpointError(
            f"{name}: {type(processor).__name__} gives {given}, where pixel_values of one size are wanted",
            "name a checkpoint that eats nothing else; of SigLIP 2, one without naflex in its name",
        )


def _canvas(processor: Any, name: str) -> Canvas:
    size, crop = _plain(processor.size), _plain(getattr(processor, "crop_size", None))
    squash = (size["height"], size["width"]) if processor.do_resize and "height" in size else None
    edge = size.get("shortest_edge") if processor.do_resize else None
    if processor.do_resize and "longest_edge" in size:
        raise CheckpointError(f"{name}: {type(processor).__name__}: a bound on the longest edge cannot be reproduced")
    cut = (crop["height"], crop["width"]) if getattr(processor, "do_center_crop", None) and crop else None
    crop_pct = getattr(processor, "crop_pct", None)
    if crop_pct and edge:  # ConvNeXt: below 384 a larger resize and a crop, from there on a squash
        squash, edge, cut = (None, int(edge / crop_pct), (edge, edge)) if edge < 384 else ((edge, edge), None, None)
    try:
        return Canvas(squash, edge, cut, int(processor.resample))
    except ValueError as exc:
        raise CheckpointError(f"{name}: {type(processor).__name__}: {exc}") from exc


def _scale(processor: Any) -> Scale:
    factor = np.full(3, processor.rescale_factor if processor.do_rescale else 1.0)
    offset = np.full(3, -1.0 if getattr(processor, "rescale_offset", False) else 0.0)
    mean, std = np.asarray(processor.image_mean, float), np.asarray(processor.image_std, float)
    if processor.do_normalize:
        factor, offset = factor / std, (offset - mean) / std
    if getattr(processor, "include_top", False):  # EfficientNet's classifier divides once more
        factor, offset = factor / std, offset / std
    return Scale(tuple(factor.tolist()), tuple(offset.tolist()))


def _compare(processor: Any, canvas: Canvas, scale: Scale, name: str) -> None:
    noise = np.random.default_rng(0)
    for height, width in ((61, 97), (530, 410), (30, 900), (900, 30)):
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8), "RGB")
        theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        factor, offset = np.array(scale.factor, np.float32), np.array(scale.offset, np.float32)
        ours = (paint(image, canvas).astype(np.float32) * factor + offset).transpose(2, 0, 1)
        if theirs.shape != ours.shape or np.abs(theirs - ours).max() > _TOLERANCE * max(1.0, np.abs(theirs).max()):
            raise CheckpointError(
                f"{name}: {type(processor).__name__} prepares pixels in a way this job cannot reproduce",
                f"for a {width}x{height} image it gives {theirs.shape}, {canvas} gives {ours.shape}",
            )


def _plain(size: Any) -> dict[str, int]:
    given = (
        dict(size) if isinstance(size, dict) else {name: getattr(size, name, None) for name in _EDGES} if size else {}
    )
    return {name: value for name, value in given.items() if value is not None}


_EDGES = ("height", "width", "shortest_edge", "longest_edge")


def _first_line(exc: Exception) -> str:
    text = str(exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
