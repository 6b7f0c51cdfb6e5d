"""Where results go, what to run on, and what to put up with."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from jobs.config.section import Auto, Number, Section, positive_or_auto, seconds


class OutputConfig(Section):
    """Where results go."""

    path: str = Field(min_length=1, description="a folder, local or s3://, that this job owns")
    embedding_dtype: Literal["float16", "float32"] = Field("float16", description="float16 costs 3e-8 of cosine")
    rows_per_file: int | Auto = Field("auto", description="rows per Parquet object; auto: 8192 with GPUs, 1024 without")
    keep_images: Literal["none", "parquet", "webdataset"] = Field(
        "none", description="also write the images of good rows, as they came: shards in images/, one for each in rows/"
    )

    @field_validator("rows_per_file", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        return positive_or_auto(value)


class PoolConfig(Section):
    """A pool of GPUs that grows while the run goes on, as the cluster gets them."""

    min: int = Field(1, gt=0, description="GPUs that must be there before the run starts")
    max: int = Field(gt=0, description="GPUs to use, at most")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"has a max of {self.max}, less than its min of {self.min}")
        return self


def _selector(value: Any) -> Any:
    """Raises ValueError for what Ray does not take as a label selector."""
    for name, wanted in value.items() if isinstance(value, dict) else ():
        if not isinstance(wanted, str) or not re.fullmatch(_WANTED, wanted):
            raise ValueError(f"has {name}: {wanted!r}; it must be a label's value, !value, in(a, b) or !in(a, b)")
    return value


_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_WANTED = rf"!?{_WORD}|!?in\({_WORD}(, ?{_WORD})*\)"
Selector = Annotated[Mapping[str, str], BeforeValidator(_selector)]


class ComputeConfig(Section):
    """What to run on. auto is decided once, from what Ray says the cluster has, and printed."""

    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="auto: cuda where the cluster has GPUs")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on CPU; float16 on GPUs, and bfloat16 for vit where they have it"
    )
    canvas: Literal["exact", "fast"] = Field("fast", description="exact: Pillow's pixels; fast: torch's, a level off")
    batch_size: int | Auto = Field(
        "auto", description="images per model call; auto: 128 on GPUs, 32 on CPU, in the parts that are fastest there"
    )
    compile: bool = Field(False, description="true compiles the models' image parts for batch_size: minutes per actor")
    gpus: int | Auto | PoolConfig = Field(
        "auto", description="GPUs to use, one annotate actor each; auto: all; {min: 1, max: 8}: more as they come"
    )
    decode_cpus: int | Auto = Field("auto", description="CPU cores that read and decode; auto: all that are left")
    annotate_on: Selector = Field({}, description="labels of the nodes that annotate: {ray.io/accelerator-type: H100}")
    decode_on: Selector = Field({}, description="labels of the nodes that read and decode")
    wait_seconds: Number = Field(
        1800.0, ge=0.0, description="on a cluster, patience with GPUs and cores that are still coming"
    )

    @field_validator("batch_size", "decode_cpus", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        return positive_or_auto(value)

    @field_validator("gpus", mode="before")
    @classmethod
    def _pool(cls, value: Any) -> Any:
        if isinstance(value, PoolConfig):
            return value
        if not isinstance(value, dict):
            return positive_or_auto(value)
        try:
            return PoolConfig.model_validate(value)
        except ValidationError as exc:
            wrong = exc.errors()[0]
            where = "".join(f"{name}: " for name in wrong["loc"])
            raise ValueError(f"is {value}; it must be like {{min: 1, max: 8}}: {where}{wrong['msg']}") from None


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

    max_reject_fraction: Number = Field(
        0.9, gt=0.0, le=1.0, description="stop when more of the rows are rejects; 1.0 never stops"
    )
    after_rows: int = Field(1000, gt=0, description="rows to look at before max_reject_fraction counts")
    unreadable_shards: Literal["stop", "set_aside"] = Field(
        "stop", description="a shard that storage will not give: stop the run, or go on and leave it for the next run"
    )
    stalled_seconds: Number = seconds(1800.0, "longer without a row that is read, decoded or annotated stops the run")
    decode_seconds: Number = seconds(60.0, "longer decoding makes an image a reject, seconds")
