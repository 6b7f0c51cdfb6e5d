"""Which models to run."""

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.config.section import Number, Section, as_tuple


class VitConfig(Section):
    """Labels from an image classifier."""

    weights: str = Field("kakaobrain/vit-large-patch16-384", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")
    top_k: int = Field(5, gt=0, description="labels per image, at most")
    min_prob: Number = Field(0.0, ge=0.0, le=1.0, description="labels below this probability are left out")


def distinct(labels: Iterable[str]) -> tuple[str, ...]:
    """Without the space around them. Raises ValueError for one that is empty or there before, by its number from 1."""
    found: dict[str, int] = {}
    for number, label in enumerate((each.strip() for each in labels), 1):
        if not label:
            raise ValueError(f"label {number} is empty")
        if label in found:
            raise ValueError(f"label {number}, {label!r}, is label {found[label]} again")
        found[label] = number
    return tuple(found)


def _listed(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value:
        raise ValueError("is empty")
    return value if isinstance(value, str) else distinct(value)


def _with_a_place(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError('is empty; ["{}"] takes the labels as they are')
    if odd := next((template for template in value if template.count("{}") != 1), None):
        raise ValueError(f"has {odd!r}, which needs one {{}} where the label goes")
    if twice := {template for template in value if value.count(template) > 1}:
        raise ValueError(f"names {sorted(twice)} twice")
    return value


class ZeroShotConfig(Section):
    """The recipe's own labels, by the cosine of image and label."""

    labels: Annotated[str | tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_listed)] = Field(
        description="a list, or a file with one label a line; local or s3://"
    )
    templates: Annotated[tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_with_a_place)] = Field(
        ("This is a photo of {}.",), description="sentences with {} for the label, averaged; transformers' own"
    )
    top_k: int = Field(5, gt=0, description="labels per image, at most")


class AlignConfig(Section):
    """Embeddings from an image-text dual encoder."""

    weights: str = Field("kakaobrain/align-base", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")
    text: bool = Field(True, description="also embed the text, and give the similarity of image and text")
    pooled: bool = Field(False, description="also store what each tower pooled, before projection and normalisation")
    zero_shot: ZeroShotConfig | None = Field(
        None, description="labels of your own for every image: {labels: [a cat, a dog]}, or {labels: labels.txt}"
    )


class ModelsConfig(Section):
    """Which models to run over every image; null leaves one out."""

    vit: VitConfig | None = VitConfig()
    align: AlignConfig | None = AlignConfig()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.vit is None and self.align is None:
            raise ValueError("has no model: at least one of vit and align is needed")
        return self
