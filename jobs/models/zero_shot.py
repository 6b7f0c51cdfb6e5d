"""Labels of the recipe's own: how probable each is of a picture, by the cosine of image and label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jobs.errors import CheckpointError
from jobs.models.vectors import unit

_LABELS_PER_CALL = 1024


@dataclass(frozen=True)
class Score:
    """logit = cosine * scale + bias. A softmax over all labels makes probabilities of logits, or a sigmoid of each."""

    scale: float
    bias: float
    sigmoid: bool

    @classmethod
    def of(cls, model: Any, name: str) -> "Score":
        """From the weights: what a config says is where training began. Raises CheckpointError."""
        if (temperature := getattr(model, "temperature", None)) is not None:
            return cls(1 / float(temperature.detach()), 0.0, sigmoid=False)
        if (scale := getattr(model, "logit_scale", None)) is None:
            raise CheckpointError(f"{name}: {type(model).__name__} has neither a temperature nor a logit_scale")
        bias = getattr(model, "logit_bias", None)  # trained pair by pair
        return cls(float(scale.detach().exp()), 0.0 if bias is None else float(bias.detach()), sigmoid=bias is not None)

    def logits(self, cosines: torch.Tensor) -> torch.Tensor:
        return cosines * self.scale + self.bias

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """[n, labels] to the same."""
        return logits.sigmoid() if self.sigmoid else logits.softmax(1)


@dataclass(frozen=True)
class ZeroShot:
    """`labels` are unit vectors, float32 [labels, dim], on the device."""

    labels: torch.Tensor
    score: Score
    top_k: int

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors [n, dim] to label ids and probabilities, each [n, top_k], descending."""
        probs = self.score.probabilities(self.score.logits(images @ self.labels.T))
        top, ids = probs.nan_to_num().topk(self.top_k)
        return ids.int(), top


def embed(
    labels: Sequence[str], templates: Sequence[str], embedded: Callable[[list[str]], torch.Tensor]
) -> torch.Tensor:
    """A unit vector for each label: the mean over the templates of the sentences' unit vectors, and its direction.

    `embedded` gives sentences their unit vectors. Raises CheckpointError for a label that gets none.
    """
    parts = []
    for start in range(0, len(labels), _LABELS_PER_CALL):
        some = labels[start : start + _LABELS_PER_CALL]
        sentences = ([template.replace("{}", label) for label in some] for template in templates)
        parts.append(unit(torch.stack([embedded(each) for each in sentences]).mean(0)))
    vectors = torch.cat(parts)
    if lost := [label for label, fine in zip(labels, vectors.isfinite().all(1).tolist(), strict=True) if not fine]:
        raise CheckpointError(
            f"{len(lost)} zero-shot labels have no embedding, {lost[0]!r} for one: NaN or infinity",
            "compute.precision: float32 reaches further than float16; or are the weights damaged?",
        )
    return vectors
