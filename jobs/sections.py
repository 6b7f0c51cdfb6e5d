"""The sections of a recipe: every key, its default, its unit, and what it may not be."""

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from jobs import schema

Auto = Literal["auto"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SampleConfig(Section):
    """A random part of the rows, the same in every run; a smaller fraction is part of a bigger one."""

    fraction: float = Field(gt=0.0, le=1.0, strict=False, description="share of the rows, 0 to 1")
    seed: int = Field(0, description="another seed, another sample")


class DatasetConfig(Section):
    """A data set that the `datasets` library can stream, or that it saved: instead of a path."""

    name: str = Field(min_length=1, description="hub id, or a local folder")
    config: str | None = Field(None, description="one of its configurations")
    split: str = Field("train", description="one of its splits")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")


def _seconds(default: float, description: str) -> Any:
    return Field(default, gt=0.0, allow_inf_nan=False, strict=False, description=description)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_tuple)]


class SourceConfig(Section):
    """What to read."""

    path: str | Texts | None = Field(
        None,
        description="a folder, a file, a glob (*.tar), braces ({00000..00127}.tar), or a list of these; local, s3:// or hf://",
    )
    dataset: DatasetConfig | None = Field(
        None, description="instead of a path: {name: OWNER/NAME, split: train}, as the datasets library streams it"
    )
    format: Literal["auto", "parquet", "urls", "webdataset", "dataset"] = Field(
        "auto", description="auto looks at the files"
    )
    keep: Texts = Field(
        ("url", "width", "height"), description="source columns (WebDataset: json fields) to copy to the output"
    )
    image_column: str = Field("auto", description="column or tar suffix with the image bytes; auto: image, jpg, ...")
    url_column: str = Field("auto", description="column with the images' urls, to fetch them; auto: url, image_url")
    text_column: str = Field("auto", description="column or tar suffix with the text; auto: text, caption, txt")
    key_column: str = Field("auto", description="column with the source's own id; auto: key, id")
    where: str | None = Field(None, description="rows to take, by their columns: watermark_score < 0.5 and width > 256")
    sample: SampleConfig | None = Field(None, description="{fraction: 0.01, seed: 0} takes a random 1 % of the rows")
    limit: int | None = Field(None, gt=0, description="at most so many rows, the first ones that are taken")

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if value is not None and (not value or (isinstance(value, tuple) and "" in value)):
            raise ValueError("is empty")
        return value

    @field_validator("keep")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := {name for name in value if value.count(name) > 1}:
            raise ValueError(f"names {sorted(twice)} twice")
        if taken := next((name for name in value if name in schema.RESERVED or name.startswith("_")), None):
            why = "is a column of the output itself" if taken in schema.RESERVED else "starts with _, as the job's do"
            raise ValueError(f"names {taken!r}: {taken} {why}; rename it in the source")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("needs a path or a dataset, one of the two")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path or ()


class FetchConfig(Section):
    """How urls are asked for; each process that reads has its own requests."""

    contact: str | None = Field(
        None, description="e-mail address or url where a site's owner can reach you; sent with every request"
    )
    requests: int = Field(256, gt=0, le=10_000, description="requests at once, in each process")
    requests_per_host: int = Field(8, gt=0, description="of these to one host, at most")
    connect_seconds: float = _seconds(10.0, "longer connecting, or looking up a name, fails, seconds")
    read_seconds: float = _seconds(20.0, "longer silence of a server fails, seconds")
    total_seconds: float = _seconds(60.0, "longer answers fail, seconds; each redirect and each try begins anew")
    max_bytes: int = Field(33_554_432, gt=0, description="larger files are rejects, bytes")
    max_redirects: int = Field(5, ge=0, description="a url that redirects more often is a reject")
    retries: int = Field(2, ge=0, description="more tries after a failure that may pass, with growing pauses")
    robots_header: Literal["obey", "ignore"] = Field(
        "obey", description="obey: X-Robots-Tag with noai, noimageai, noindex or noimageindex makes a reject"
    )
    allow_networks: Texts = Field(
        (), description="networks such as 10.1.0.0/16 that urls may lead to although they are not public"
    )

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network)
            except ValueError as exc:
                raise ValueError(f"names {network!r}, which is not a network such as 10.1.0.0/16: {exc}") from None
        return value

    @field_validator("contact")
    @classmethod
    def _header(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[!-'*-\[\]-~]{1,200}", value):
            raise ValueError(f"is {value!r}; it must be an e-mail address or a url, without spaces and brackets")
        return value


class DecodeConfig(Section):
    """How bytes become RGB."""

    exif_orientation: bool = Field(
        True, description="turn pictures upright as their EXIF tag says; TIFF is always turned"
    )
    alpha: Literal["white", "drop"] = Field(
        "white", description="white composites transparency on white, drop ignores it as transformers' pipelines do"
    )
    max_pixels: int = Field(178_956_970, gt=0, description="larger images are rejects, pixels; also when resized")


class VitConfig(Section):
    """Labels from an image classifier."""

    weights: str = Field("kakaobrain/vit-large-patch16-384", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")
    top_k: int = Field(5, gt=0, description="labels per image, at most")
    min_prob: float = Field(0.0, ge=0.0, le=1.0, strict=False, description="labels below this probability are left out")


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

    labels: Annotated[str | tuple[str, ...], BeforeValidator(_tuple), AfterValidator(_listed)] = Field(
        description="a list, or a file with one label a line; local or s3://"
    )
    templates: Annotated[tuple[str, ...], BeforeValidator(_tuple), AfterValidator(_with_a_place)] = Field(
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


class OutputConfig(Section):
    """Where results go."""

    path: str = Field(min_length=1, description="a folder, local or s3://, that this job owns")
    embedding_dtype: Literal["float16", "float32"] = Field("float16", description="float16 costs 3e-8 of cosine")
    rows_per_file: int | Auto = Field("auto", description="rows per Parquet object; auto: 8192 with GPUs, 1024 without")
    keep_images: Literal["none", "parquet", "webdataset"] = Field(
        "none", description="also write the images of good rows, as they came: shards in images/, one for each in rows/"
    )

    @field_validator("rows_per_file")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        return _positive_or_auto(value)


class ComputeConfig(Section):
    """What to run on. auto is decided once, from what Ray says the cluster has, and printed."""

    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="auto: cuda where the cluster has GPUs")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on CPU, bfloat16 on GPUs that have it, else float16"
    )
    canvas: Literal["exact", "fast"] = Field("fast", description="exact: Pillow's pixels; fast: torch's, a level off")
    batch_size: int | Auto = Field("auto", description="images per model call; auto: 128 on GPUs, 32 on CPU")
    gpus: int | Auto = Field("auto", description="GPUs to use, one annotate actor each; auto: all")
    decode_cpus: int | Auto = Field("auto", description="CPU cores that read and decode; auto: all that are left")

    @field_validator("batch_size", "gpus", "decode_cpus")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        return _positive_or_auto(value)


class StorageConfig(Section):
    """How to reach s3:// paths; what is null comes from the usual AWS_* variables and profiles."""

    endpoint_url: str | None = Field(None, description="for S3-compatible stores, such as http://minio:9000")
    region: str | None = Field(None, description="such as us-east-1")
    anonymous: bool = Field(False, description="true reads public buckets without credentials")

    @field_validator("endpoint_url")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None:
            url = urlsplit(value)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError("is not an http:// or https:// url")
            if url.username or url.password:
                raise ValueError("carries credentials; put them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return value


class LimitsConfig(Section):
    """What a run puts up with before it stops."""

    max_reject_fraction: float = Field(
        0.9, gt=0.0, le=1.0, strict=False, description="stop when more of the rows are rejects; 1.0 never stops"
    )
    after_rows: int = Field(1000, gt=0, description="rows to look at before max_reject_fraction counts")
    unreadable_shards: Literal["stop", "set_aside"] = Field(
        "stop", description="a shard that storage will not give: stop the run, or go on and leave it for the next run"
    )
    decode_seconds: float = Field(
        60.0, gt=0.0, strict=False, description="longer decoding makes an image a reject, seconds"
    )


def _positive_or_auto(value: int | str) -> int | str:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"is {value}; it must be at least 1, or auto")
    return value
