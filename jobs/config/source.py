"""What to read, how to fetch and how to decode it."""

import re
from ipaddress import ip_network
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs import schema
from jobs.config.section import Number, Section, Texts, seconds


class SampleConfig(Section):
    """A random part of the rows, the same in every run; a smaller fraction is part of a bigger one."""

    fraction: Number = Field(gt=0.0, le=1.0, description="share of the rows, 0 to 1")
    seed: int = Field(0, description="another seed, another sample")


class DatasetConfig(Section):
    """A data set that the `datasets` library can stream, or that it saved: instead of a path."""

    name: str = Field(min_length=1, description="hub id, or a local folder")
    config: str | None = Field(None, description="one of its configurations")
    split: str = Field("train", description="one of its splits")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")


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
    connect_seconds: Number = seconds(10.0, "longer connecting, or looking up a name, fails, seconds")
    read_seconds: Number = seconds(20.0, "longer silence of a server fails, seconds")
    total_seconds: Number = seconds(60.0, "longer answers fail, seconds; each redirect and each try begins anew")
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
