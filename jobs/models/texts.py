"""Texts become token groups: each as long as the model was trained for, in groups of about one length."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.errors import CheckpointError
from jobs.models import loading

TEXTS_PER_CALL = 64
_FEW = 8  # fewer texts than this are not worth a call of their own
_ALIGN = 64  # tokens: what ALIGN was trained with, and what its processor pads to; it has positions for 512
_FILES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))
INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Reading:
    """How a model reads: texts are cut at `longest` tokens; `padded` to as many where its embeddings depend on that."""

    longest: int
    padded: bool


@dataclass(frozen=True)
class Groups:
    """Token ids, and masks where the model wants them, each [n, length]; and each text's place among all their rows."""

    tokens: list[tuple[torch.Tensor, ...]]
    places: torch.Tensor


class Tokenizer:
    """A checkpoint's own, as `load` gives it. Calls from several threads wait for each other: it keeps its truncation
    as state, and refuses to change it while in use."""

    def __init__(self, tokenizer: Any, reading: Reading) -> None:
        self._tokenizer = tokenizer
        self._reading = reading
        self._alone = threading.Lock()

    @classmethod
    def of(cls, folder: str, name: str, config: Any, reading: Reading) -> "Tokenizer":
        return cls(load(folder, name, config), reading)

    def __call__(self, texts: Sequence[str]) -> Groups:
        """At least one text, each anything but empty."""
        with self._alone:
            ids = self._tokenizer(list(texts), truncation=True, max_length=self._reading.longest)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        tokens = [self._padded([ids[i] for i in order[part]]) for part in groups_of([len(ids[i]) for i in order])]
        return Groups(tokens, torch.tensor(order).argsort())

    def _padded(self, ids: list[list[int]]) -> tuple[torch.Tensor, ...]:
        """INPUTS, the mask only where the tokenizer says that its model was trained with one."""
        full = {"padding": "max_length", "max_length": self._reading.longest} if self._reading.padded else {}
        tokens = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt", **full)
        return tuple(tokens[name] for name in INPUTS if name in tokens)


def groups_of(lengths: Sequence[int]) -> list[slice]:
    """Ascending lengths, cut where padding to a group's last would cost more than a call: at most a quarter longer
    than its first, when there are a few, and never more than TEXTS_PER_CALL."""
    groups: list[slice] = []
    start = 0
    for i, length in enumerate(lengths):
        long, many = length > 1.25 * lengths[start], i - start >= _FEW
        if i > start and ((long and many) or i - start == TEXTS_PER_CALL):
            groups.append(slice(start, i))
            start = i
    return [*groups, slice(start, len(lengths))] if lengths else []


def load(folder: str, name: str, config: Any) -> Any:
    """The tokenizer as transformers loads it, for a model of this config. Raises CheckpointError."""
    if not any(all(any(Path(folder).glob(file)) for file in files) for files in _FILES):
        # transformers would make one of five pieces, to which every word is unknown
        looked = ", no ".join(" and ".join(files) for files in _FILES)
        raise CheckpointError(f"{name}: no {looked} there", "models.align.text: false, without zero_shot, needs none")
    with loading.complaints(name):
        tokenizer = loading.transformers().AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > (pieces := config.text_config.vocab_size):
        says = f"{name}: its tokenizer has {len(tokenizer)} pieces, its model {pieces}"
        raise CheckpointError(says, "are they of one checkpoint?")
    return tokenizer


def longest(tokenizer: Any, config: Any) -> int:
    """Tokens of a text that are read: as many as the tokenizer says and the model has positions for."""
    most = _ALIGN if config.model_type == "align" else tokenizer.model_max_length
    return int(min(most, tokenizer.model_max_length, config.text_config.max_position_embeddings))
