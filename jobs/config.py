"""The recipe: one frozen, typed tree. Unknown keys are errors that name the nearest known key.

    JobConfig.load("job.yaml")                          from YAML (or JSON: it is YAML)
    JobConfig.load(path, ["models.vit.top_k=3"])        with overrides
    JobConfig.of({"source": {"path": ...}, ...})        from a mapping

No secret lives here: credentials come from the usual AWS_* variables and profiles.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs import schema
from jobs.errors import ConfigError

Auto = Literal["auto"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceConfig(_Section):
    """What to read."""

    path: str | tuple[str, ...] = Field(
        description="a folder, a file, a glob (*.tar), braces ({00000..00127}.tar), or a list of these; local or s3://"
    )
    format: Literal["auto", "parquet", "webdataset"] = Field("auto", description="auto looks at the files")
    keep: tuple[str, ...] = Field(
        ("url", "width", "height"), description="source columns (WebDataset: json fields) to copy to the output"
    )
    image_column: str = Field("auto", description="column or tar suffix with the image bytes; auto: image, jpg, ...")
    text_column: str = Field("auto", description="column or tar suffix with the text; auto: text, caption, txt")
    key_column: str = Field("auto", description="column with the source's own id; auto: key, id")

    @field_validator("path", "keep", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or (isinstance(value, tuple) and "" in value):
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


class DecodeConfig(_Section):
    """How bytes become RGB."""

    exif_orientation: bool = Field(
        True, description="turn pictures upright as their EXIF tag says; TIFF is always turned"
    )
    alpha: Literal["white", "drop"] = Field(
        "white", description="white composites transparency on white, drop ignores it as transformers' pipelines do"
    )
    max_pixels: int = Field(178_956_970, gt=0, description="larger images are rejects, pixels; also when resized")


class VitConfig(_Section):
    """Labels from an image classifier."""

    weights: str = Field("kakaobrain/vit-large-patch16-384", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")
    top_k: int = Field(5, gt=0, description="labels per image, at most")
    min_prob: float = Field(0.0, ge=0.0, le=1.0, strict=False, description="labels below this probability are left out")


class AlignConfig(_Section):
    """Embeddings from an image-text dual encoder."""

    weights: str = Field("kakaobrain/align-base", description="hub id, local or s3:// folder, or demo")
    revision: str | None = Field(None, description="hub commit, branch or tag; null: the newest, as the run records")
    text: bool = Field(True, description="also embed the text, and give the similarity of image and text")


class ModelsConfig(_Section):
    """Which models to run over every image; null leaves one out."""

    vit: VitConfig | None = VitConfig()
    align: AlignConfig | None = AlignConfig()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.vit is None and self.align is None:
            raise ValueError("has no model: at least one of vit and align is needed")
        return self


class OutputConfig(_Section):
    """Where results go."""

    path: str = Field(min_length=1, description="a folder, local or s3://, that this job owns")
    embedding_dtype: Literal["float16", "float32"] = Field("float16", description="float16 costs 3e-8 of cosine")
    rows_per_file: int | Auto = Field("auto", description="rows per Parquet object; auto: 8192 with GPUs, 1024 without")

    @field_validator("rows_per_file")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        return _positive_or_auto(value)


class ComputeConfig(_Section):
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


class StorageConfig(_Section):
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


class LimitsConfig(_Section):
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


class JobConfig(_Section):
    """One job."""

    source: SourceConfig
    decode: DecodeConfig = DecodeConfig()
    models: ModelsConfig = ModelsConfig()
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """From a mapping; raises ConfigError with every mistake in it."""
        try:
            return cls.model_validate(tree)
        except ValidationError as exc:
            raise ConfigError(_explain(exc)) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """From a YAML or JSON file, local or s3://, with `section.key=value` overrides; the value is YAML."""
        try:
            tree = yaml.safe_load(_text(path))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such recipe", "coyo-jobs init INPUT OUTPUT > job.yaml writes one") from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
            raise ConfigError(f"{path}: cannot be read as YAML: {exc}") from exc
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: a recipe is a mapping with source and output, this is {type(tree).__name__}")
        for override in overrides:
            _set(tree, override)
        try:
            return cls.of(tree)
        except ConfigError as exc:
            raise ConfigError(f"{path}: {exc.message}", exc.hint) from None

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _text(path: str | Path) -> str:
    if "://" not in str(path):
        return Path(path).read_text(encoding="utf-8")
    from jobs.storage import Storage  # which takes its settings from this module

    return Storage().read(str(path)).decode("utf-8")


def _positive_or_auto(value: int | str) -> int | str:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"is {value}; it must be at least 1, or auto")
    return value


def _set(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ConfigError(f"--set {override}: the value is not YAML: {exc}") from exc
    *sections, key = path.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {section} is not a section")
    tree[key] = value


def _explain(exc: ValidationError) -> str:
    seen: dict[str, list[str]] = {}
    for error in exc.errors():
        names = _key_path(error["loc"])
        message = _nearest(names) if error["type"] == "extra_forbidden" else _plainly(error["msg"], error["input"])
        seen.setdefault(".".join(names) or "recipe", []).append(message)
    return "; ".join(f"{key} {', or '.join(dict.fromkeys(messages))}" for key, messages in seen.items())


def _key_path(loc: tuple[int | str, ...]) -> list[str]:
    """The recipe's keys in pydantic's location, without the union members and list indexes it adds."""
    names: list[str] = []
    section: type[BaseModel] | None = JobConfig
    for part in map(str, loc):
        if section is None:
            break
        names.append(part)
        field = section.model_fields.get(part)
        section = _section(field.annotation) if field else None
    return names


def _section(annotation: Any) -> type[BaseModel] | None:
    members = getattr(annotation, "__args__", (annotation,))
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)


def _nearest(names: list[str]) -> str:
    section: type[BaseModel] | None = JobConfig
    for name in names[:-1]:
        section = _section(section.model_fields[name].annotation) if section else None
    known = list(section.model_fields) if section else []
    near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.0) or known[:1]
    return f"is not a known key; the nearest is {near[0]!r}"


_PLAIN = {
    "Field required": "is needed and has no default",
    "valid tuple": "list",
    "valid integer": "whole number",
    "valid number": "number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "Keys should be strings": "is a key, and keys must be text",
}


def _plainly(text: str, given: Any) -> str:
    if text.startswith("Value error, "):
        return text.removeprefix("Value error, ")
    if "valid dictionary or instance" in text:
        return f"is {given!r}; it must be a section with keys of its own"
    for theirs, ours in _PLAIN.items():
        text = text.replace(theirs, ours)
    return text if text.startswith("is ") else f"is {given!r}; {text.replace('Input should be', 'it must be')}"
