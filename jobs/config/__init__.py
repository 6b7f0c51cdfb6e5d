"""The typed form of a recipe: every key with its default, unit and allowed values. Frozen; unknown keys are errors.

`jobs.recipe` reads it from a file. A recipe holds no secrets: credentials come from the AWS_* variables and profiles.
"""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import ValidationError

from jobs.config.explain import explain
from jobs.config.models import AlignConfig, ModelsConfig, VitConfig, ZeroShotConfig
from jobs.config.run import ComputeConfig, LimitsConfig, OutputConfig, PoolConfig, StorageConfig
from jobs.config.section import Section
from jobs.config.source import DatasetConfig, DecodeConfig, FetchConfig, SampleConfig, SourceConfig
from jobs.errors import ConfigError

__all__ = [
    "AlignConfig",
    "ComputeConfig",
    "DatasetConfig",
    "DecodeConfig",
    "FetchConfig",
    "JobConfig",
    "LimitsConfig",
    "ModelsConfig",
    "OutputConfig",
    "PoolConfig",
    "SampleConfig",
    "SourceConfig",
    "StorageConfig",
    "VitConfig",
    "ZeroShotConfig",
]

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times faster; recipes may have 10,000s of labels


class JobConfig(Section):
    """A complete recipe: one section per field."""

    source: SourceConfig
    fetch: FetchConfig = FetchConfig()
    decode: DecodeConfig = DecodeConfig()
    models: ModelsConfig = ModelsConfig()
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Validate a parsed recipe. Raises ConfigError that lists every mistake."""
        try:
            return cls.model_validate(tree)
        except ValidationError as exc:
            raise ConfigError(explain(exc, cls)) from None

    def to_yaml(self) -> str:
        return yaml.dump(self.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
