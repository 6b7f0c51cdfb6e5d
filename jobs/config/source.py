"""The source, fetch and decode sections of a recipe."""

import re
from ipaddress import ip_network
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs import schema
from jobs.config.section import Number, Section, Texts, seconds_field


class SampleConfig(Section):
    """A random sample of the rows: the same in every run, and a larger fraction contains every smaller one."""

    fraction: Number = Field(gt=0.0, le=1.0, description="fraction of the rows, 0 to 1")
    seed: int = Field(0, description="another seed selects another sample")


class DatasetConfig(Section):
    """A data set that the `datasets` library can stream, or that it saved with save_to_disk."""

    name: str = Field(min_length=1, description="hub id or local folder")
    config: str | None = Field(None, description="configuration of the data set; null: the default")
    split: str = Field("train", description="split of the data set")
    revision: str | None = Field(
        None, description="hub commit, branch or tag; null: the newest, as recorded by the run"
    )


class SourceConfig(Section):
    """Where to read the images from, and which rows to process."""

    path: str | Texts | None = Field(
        None,
        description="folder, file, glob (*.tar), braces ({00000..00127}.tar), or a list of these; local, s3:// or hf://",
    )
    dataset: DatasetConfig | None = Field(
        None, description="instead of path: a data set for the datasets library, {name: OWNER/NAME, split: train}"
    )
    format: Literal["auto", "parquet", "urls", "webdataset", "dataset"] = Field(
        "auto", description="auto: detect the format from the files"
    )
    keep: Texts = Field(
        ("url", "width", "height"), description="source columns (WebDataset: json fields) to copy to the output"
    )
    image_column: str = Field("auto", description="column or tar suffix of the image bytes; auto: image, jpg, ...")
    url_column: str = Field("auto", description="column of the image urls to fetch; auto: url, image_url")
    text_column: str = Field("auto", description="column or tar suffix of the text; auto: text, caption, txt")
    key_column: str = Field("auto", description="column of the source's own ids; auto: key, id")
    where: str | None = Field(
        None, description="process only the rows for which this is true: watermark_score < 0.5 and width > 256"
    )
    sample: SampleConfig | None = Field(
        None, description="process a random sample: {fraction: 0.01, seed: 0} is 1 % of the rows"
    )
    limit: int | None = Field(
        None, gt=0, description="process at most this many rows: the first that where and sample select"
    )

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if value is not None and (not value or (isinstance(value, tuple) and "" in value)):
            raise ValueError("is empty")
        return value

    @field_validator("keep")
    @classmethod
    def _check_keep(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := {name for name in value if value.count(name) > 1}:
            raise ValueError(f"names {sorted(twice)} twice")
        if taken := next((name for name in value if name in schema.RESERVED or name.startswith("_")), None):
            why = "is a column of the output itself" if taken in schema.RESERVED else "starts with _, which is reserved"
            raise ValueError(f"names {taken!r}: {taken} {why}; rename it in the source")
        return value

    @model_validator(mode="after")
    def _path_or_dataset(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("needs either a path or a dataset")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path or ()


class FetchConfig(Section):
    """How to download images from urls. Each reading process has these limits."""

    contact: str | None = Field(
        None, description="e-mail address or url where site owners can reach you; sent with every request"
    )
    requests: int = Field(256, gt=0, le=10_000, description="concurrent requests")
    requests_per_host: int = Field(8, gt=0, description="concurrent requests to one host")
    connect_seconds: Number = seconds_field(10.0, "timeout for the DNS lookup, and for connecting, seconds")
    read_seconds: Number = seconds_field(20.0, "timeout while a server sends nothing, seconds")
    total_seconds: Number = seconds_field(
        60.0, "timeout for one response, seconds; restarts with each redirect and retry"
    )
    max_bytes: int = Field(33_554_432, gt=0, description="reject larger files, bytes")
    max_redirects: int = Field(5, ge=0, description="reject a url with more redirects")
    retries: int = Field(2, ge=0, description="retries after a transient failure, with growing pauses")
    robots_header: Literal["obey", "ignore"] = Field(
        "obey", description="obey: reject images whose X-Robots-Tag has noai, noimageai, noindex or noimageindex"
    )
    allow_networks: Texts = Field((), description="non-public networks that urls may lead to, for example 10.1.0.0/16")

    @field_validator("allow_networks")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network)
            except ValueError as exc:
                raise ValueError(f"names {network!r}, which is not a network such as 10.1.0.0/16: {exc}") from None
        return value

    @field_validator("contact")
    @classmethod
    def _check_contact(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[!-'*-\[\]-~]{1,200}", value):
            raise ValueError(f"is {value!r}; it must be an e-mail address or a url, without spaces or brackets")
        return value


class DecodeConfig(Section):
    """How to decode images to RGB."""

    exif_orientation: bool = Field(
        True, description="rotate images upright by their EXIF orientation; TIFF is always rotated"
    )
    alpha: Literal["white", "drop"] = Field(
        "white", description="white: blend transparency with white; drop: ignore it, as the transformers pipelines do"
    )
    max_pixels: int = Field(178_956_970, gt=0, description="reject larger images, pixels; also applies after resizing")
