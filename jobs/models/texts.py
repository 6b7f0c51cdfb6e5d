"""Tokenise texts: truncate them to the length that the model was trained with, and group them by length."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.errors import CheckpointError
from jobs.models import loading

TEXTS_PER_CALL = 64
_MIN_GROUP = 8  # texts: one more call costs more than padding this few
_ALIGN_MAX_LENGTH = 64  # tokens: ALIGN was trained with 64 and its processor pads to 64, although it has 512 positions
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))
INPUT_NAMES = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class TokenizerOptions:
    """Texts are truncated to `max_length` tokens.

    With `pad_to_max_length` they are also padded to it: some models (e.g. SigLIP) embed a text differently without.
    """

    max_length: int
    pad_to_max_length: bool


@dataclass(frozen=True)
class TokenGroups:
    """Tokens of n texts, in groups of similar length.

    A group holds token ids and, if the model uses one, the attention mask, each int64 [texts, length].
    `inverse` (int64 [n]) is the row of each text in the concatenated groups.
    """

    tokens: list[tuple[torch.Tensor, ...]]
    inverse: torch.Tensor


class Tokenizer:
    """A checkpoint's tokenizer, safe to call from several threads.

    A lock makes concurrent calls wait: the library keeps the truncation as state and raises if it is in use.
    """

    def __init__(self, tokenizer: Any, options: TokenizerOptions) -> None:
        self._tokenizer = tokenizer
        self._options = options
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(cls, folder: str, name: str, config: Any, options: TokenizerOptions) -> "Tokenizer":
        """Load from a checkpoint's folder. Raises CheckpointError."""
        return cls(load_tokenizer(folder, name, config), options)

    def __call__(self, texts: Sequence[str]) -> TokenGroups:
        """Tokenise at least one text; no text may be empty."""
        with self._lock:
            ids = self._tokenizer(list(texts), truncation=True, max_length=self._options.max_length)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        groups = group_by_length([len(ids[i]) for i in order])
        tokens = [self._pad([ids[i] for i in order[group]]) for group in groups]
        return TokenGroups(tokens, torch.tensor(order).argsort())

    def _pad(self, ids: list[list[int]]) -> tuple[torch.Tensor, ...]:
        """Return the INPUT_NAMES as tensors; the tokenizer leaves out the mask if its model was trained without."""
        options = self._options
        padding = {"padding": "max_length", "max_length": options.max_length} if options.pad_to_max_length else {}
        tokens = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt", **padding)
        return tuple(tokens[name] for name in INPUT_NAMES if name in tokens)


def group_by_length(lengths: Sequence[int]) -> list[slice]:
    """Cut ascending lengths into groups for which padding costs less than one more call.

    A group has at most TEXTS_PER_CALL texts. From _MIN_GROUP texts on, it ends before a text that is more than a
    quarter longer than its first.
    """
    groups: list[slice] = []
    start = 0
    for i, length in enumerate(lengths):
        long, many = length > 1.25 * lengths[start], i - start >= _MIN_GROUP
        if i > start and ((long and many) or i - start == TEXTS_PER_CALL):
            groups.append(slice(start, i))
            start = i
    return [*groups, slice(start, len(lengths))] if lengths else []


def load_tokenizer(folder: str, name: str, config: Any) -> Any:
    """Load transformers' tokenizer for a model with this config. Raises CheckpointError."""
    if not any(all(any(Path(folder).glob(file)) for file in files) for files in _TOKENIZER_FILES):
        # without files transformers makes a tokenizer of five pieces, to which every word is unknown
        missing = ", no ".join(" and ".join(files) for files in _TOKENIZER_FILES)
        hint = "add the tokenizer's files, or set models.align.text: false and remove zero_shot"
        raise CheckpointError(f"{name}: no tokenizer: no {missing}", hint)
    with loading.checkpoint_errors(name):
        tokenizer = loading.transformers().AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > (vocab_size := config.text_config.vocab_size):
        message = f"{name}: its tokenizer has {len(tokenizer)} pieces, its model {vocab_size}"
        raise CheckpointError(message, "check that both are from the same checkpoint")
    return tokenizer


def max_length(tokenizer: Any, config: Any) -> int:
    """Tokens that the model reads of a text: the smallest of the tokenizer's, the model's and ALIGN's limit."""
    trained = _ALIGN_MAX_LENGTH if config.model_type == "align" else tokenizer.model_max_length
    return int(min(trained, tokenizer.model_max_length, config.text_config.max_position_embeddings))
