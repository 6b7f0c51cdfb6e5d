"""The models section of a recipe."""

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.config.section import Number, Section, as_tuple


class VitConfig(Section):
    """Label each image with an image classifier."""

    weights: str = Field("kakaobrain/vit-large-patch16-384", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(
        None, description="hub commit, branch or tag; null: the newest, as recorded by the run"
    )
    top_k: int = Field(5, gt=0, description="maximum number of labels per image")
    min_prob: Number = Field(0.0, ge=0.0, le=1.0, description="drop labels below this probability")


def distinct_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Strip each label. Raises ValueError for an empty or repeated label, naming its position, from 1."""
    numbers: dict[str, int] = {}
    for number, label in enumerate(map(str.strip, labels), 1):
        if not label:
            raise ValueError(f"label {number} is empty")
        if label in numbers:
            raise ValueError(f"label {number}, {label!r}, repeats label {numbers[label]}")
        numbers[label] = number
    return tuple(numbers)


def _check_labels(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value:
        raise ValueError("is empty")
    return value if isinstance(value, str) else distinct_labels(value)


def _check_templates(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError('is empty; ["{}"] uses the labels themselves')
    if odd := next((template for template in value if template.count("{}") != 1), None):
        raise ValueError(f"has {odd!r}, which must contain {{}} once, in place of the label")
    if twice := {template for template in value if value.count(template) > 1}:
        raise ValueError(f"names {sorted(twice)} twice")
    return value


class ZeroShotConfig(Section):
    """Also label each image with labels of your own, by the similarity of image and label."""

    labels: Annotated[str | tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_check_labels)] = Field(
        description="list of labels, or a file with one label per line; local or s3://"
    )
    templates: Annotated[tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_check_templates)] = Field(
        ("This is a photo of {}.",),
        description="sentences with {} in place of the label; the embeddings are averaged",
    )
    top_k: int = Field(5, gt=0, description="maximum number of labels per image")


class AlignConfig(Section):
    """Embed images and texts with an image-text dual encoder."""

    weights: str = Field("kakaobrain/align-base", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(
        None, description="hub commit, branch or tag; null: the newest, as recorded by the run"
    )
    text: bool = Field(True, description="also embed the text and compute the image-text similarity")
    pooled: bool = Field(
        False, description="also store the towers' pooled outputs, before projection and normalisation"
    )
    zero_shot: ZeroShotConfig | None = Field(
        None, description="labels of your own: {labels: [a cat, a dog]} or {labels: labels.txt}; null: none"
    )


class ModelsConfig(Section):
    """The models to run on every image; null leaves a model out."""

    vit: VitConfig | None = VitConfig()
    align: AlignConfig | None = AlignConfig()

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if self.vit is None and self.align is None:
            raise ValueError("has no model; at least one of vit and align is required")
        return self
