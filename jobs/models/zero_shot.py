"""Zero-shot classification: the probability of each of the recipe's labels, from the cosine of image and label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jobs.errors import CheckpointError
from jobs.models.vectors import l2_normalise

_LABELS_PER_CALL = 1024


@dataclass(frozen=True)
class LogitHead:
    """logit = cosine * scale + bias; probabilities are a softmax over all labels, or a sigmoid of each logit.

    Scale and bias are the checkpoint's: 1 / temperature in ALIGN, exp(logit_scale) in CLIP (arXiv:2103.00020),
    exp(logit_scale) with a logit_bias and a sigmoid in SigLIP (arXiv:2303.15343).
    """

    scale: float
    bias: float
    sigmoid: bool

    @classmethod
    def from_model(cls, model: Any, name: str) -> "LogitHead":
        """Read the trained values from the weights; the config has the initial ones. Raises CheckpointError."""
        if (temperature := getattr(model, "temperature", None)) is not None:
            return cls(1 / float(temperature.detach()), 0.0, sigmoid=False)
        if (scale := getattr(model, "logit_scale", None)) is None:
            raise CheckpointError(f"{name}: {type(model).__name__} has neither a temperature nor a logit_scale")
        bias = getattr(model, "logit_bias", None)  # only models trained with a sigmoid loss have one
        return cls(float(scale.detach().exp()), 0.0 if bias is None else float(bias.detach()), sigmoid=bias is not None)

    def logits(self, cosines: torch.Tensor) -> torch.Tensor:
        return cosines * self.scale + self.bias

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [n, labels] -> probabilities [n, labels]."""
        return logits.sigmoid() if self.sigmoid else logits.softmax(1)


@dataclass(frozen=True)
class ZeroShotClassifier:
    """`labels` are the labels' unit vectors, float32 [labels, dim], on the device."""

    labels: torch.Tensor
    head: LogitHead
    top_k: int

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors [n, dim] -> label ids int32 and probabilities float32, each [n, top_k], descending."""
        probs = self.head.probabilities(self.head.logits(images @ self.labels.T))
        top, ids = probs.nan_to_num().topk(self.top_k)
        return ids.int(), top


def embed_labels(
    labels: Sequence[str], templates: Sequence[str], embed_texts: Callable[[list[str]], torch.Tensor]
) -> torch.Tensor:
    """Embed each label as the normalised mean of its templates' unit vectors, float32 [labels, dim].

    This is CLIP's prompt ensembling (arXiv:2103.00020, section 3.1.4). `embed_texts` maps n texts to unit vectors
    [n, dim]. Raises CheckpointError for labels whose embedding is NaN or infinite.
    """
    chunks = []
    for start in range(0, len(labels), _LABELS_PER_CALL):
        chunk = labels[start : start + _LABELS_PER_CALL]
        prompts = ([template.replace("{}", label) for label in chunk] for template in templates)
        chunks.append(l2_normalise(torch.stack([embed_texts(texts) for texts in prompts]).mean(0)))
    vectors = torch.cat(chunks)
    if lost := [label for label, finite in zip(labels, vectors.isfinite().all(1).tolist(), strict=True) if not finite]:
        raise CheckpointError(
            f"{len(lost)} zero-shot labels have no embedding (NaN or infinity), for example {lost[0]!r}",
            "set compute.precision: float32, whose range is larger than float16's, or check the weights for damage",
        )
    return vectors
