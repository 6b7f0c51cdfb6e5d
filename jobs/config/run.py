"""The output, compute, storage and limits sections of a recipe."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from jobs.config.section import Auto, Number, Section, positive_or_auto, seconds_field


class OutputConfig(Section):
    """Where to write the results."""

    path: str = Field(min_length=1, description="output folder of this job only, local or s3://")
    embedding_dtype: Literal["float16", "float32"] = Field(
        "float16", description="dtype of stored embeddings; float16 costs 3e-8 in cosine similarity"
    )
    rows_per_file: int | Auto = Field("auto", description="rows per Parquet file; auto: 8192 with GPUs, 1024 without")
    keep_images: Literal["none", "parquet", "webdataset"] = Field(
        "none", description="also store the encoded images of rows with results: one file in images/ per file in rows/"
    )

    @field_validator("rows_per_file", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        return positive_or_auto(value)


class PoolConfig(Section):
    """A range of GPUs: the run starts with `min` and grows up to `max` while the cluster adds GPUs."""

    min: int = Field(1, gt=0, description="GPUs required before the run starts")
    max: int = Field(gt=0, description="maximum number of GPUs")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"has a max of {self.max}, less than its min of {self.min}")
        return self


def _check_selector(value: Any) -> Any:
    """Raises ValueError for a label selector that Ray would refuse."""
    for name, condition in value.items() if isinstance(value, dict) else ():
        if not isinstance(condition, str) or not re.fullmatch(_LABEL_CONDITION, condition):
            raise ValueError(f"has {name}: {condition!r}; it must be a label's value, !value, in(a, b) or !in(a, b)")
    return value


_LABEL_VALUE = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_CONDITION = rf"!?{_LABEL_VALUE}|!?in\({_LABEL_VALUE}(, ?{_LABEL_VALUE})*\)"
LabelSelector = Annotated[Mapping[str, str], BeforeValidator(_check_selector)]


class ComputeConfig(Section):
    """Resources. Each auto is resolved once, from the resources that Ray reports, and printed."""

    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="auto: cuda if the cluster has GPUs, else cpu")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on CPU; float16 on GPU, bfloat16 for vit if the GPU supports it"
    )
    canvas: Literal["exact", "fast"] = Field(
        "fast", description="how to resize images. exact: with Pillow; fast: with torch, some values differ by 1 of 255"
    )
    batch_size: int | Auto = Field(
        "auto",
        description="images per model call, run in the fastest micro-batches; auto: 128 on GPU, 32 on CPU",
    )
    compile: bool = Field(False, description="compile the image models for batch_size; takes minutes per actor")
    gpus: int | Auto | PoolConfig = Field(
        "auto", description="GPUs to use, one annotate actor each; auto: all; {min: 1, max: 8}: start with 1, grow to 8"
    )
    decode_cpus: int | Auto = Field("auto", description="CPU cores for reading and decoding; auto: all remaining cores")
    annotate_on: LabelSelector = Field(
        {}, description="annotate only on nodes with these Ray labels: {ray.io/accelerator-type: H100}"
    )
    decode_on: LabelSelector = Field({}, description="read and decode only on nodes with these Ray labels")
    wait_seconds: Number = Field(
        1800.0, ge=0.0, description="on a cluster: how long to wait for missing GPUs and cores, seconds"
    )

    @field_validator("batch_size", "decode_cpus", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        return positive_or_auto(value)

    @field_validator("gpus", mode="before")
    @classmethod
    def _parse_gpus(cls, value: Any) -> Any:
        if isinstance(value, PoolConfig):
            return value
        if not isinstance(value, dict):
            return positive_or_auto(value)
        try:
            return PoolConfig.model_validate(value)
        except ValidationError as exc:
            first = exc.errors()[0]
            location = "".join(f"{name}: " for name in first["loc"])
            raise ValueError(f"is {value}; it must be like {{min: 1, max: 8}}: {location}{first['msg']}") from None


class StorageConfig(Section):
    """Access to s3:// paths. For null, the AWS_* variables and profiles decide."""

    endpoint_url: str | None = Field(
        None, description="endpoint of an S3-compatible store, for example http://minio:9000"
    )
    region: str | None = Field(None, description="for example us-east-1")
    anonymous: bool = Field(False, description="read public buckets without credentials")

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            url = urlsplit(value)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError("is not an http:// or https:// url")
            if url.username or url.password:
                raise ValueError("contains credentials; put them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return value


class LimitsConfig(Section):
    """When to stop the run, and when to reject a slow image."""

    max_reject_fraction: Number = Field(
        0.9, gt=0.0, le=1.0, description="stop when a larger fraction of rows is rejected; 1.0: never stop"
    )
    after_rows: int = Field(1000, gt=0, description="rows to process before max_reject_fraction applies")
    unreadable_shards: Literal["stop", "set_aside"] = Field(
        "stop",
        description="when storage cannot deliver a shard: stop the run, or leave the shard for the next run",
    )
    stalled_seconds: Number = seconds_field(
        1800.0, "stop when no row is read, decoded or annotated for this long, seconds"
    )
    decode_seconds: Number = seconds_field(60.0, "reject an image that takes longer to decode, seconds")
