"""The recipe's typed tree: every key, its default, its unit, and its allowed values. Frozen; unknown keys are errors.

`jobs.recipe` reads it from a file. No secret lives here: credentials come from the usual AWS_* variables and profiles.
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

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast: labels may be tens of thousands


class JobConfig(Section):
    """One job."""

    source: SourceConfig
    fetch: FetchConfig = FetchConfig()
    decode: DecodeConfig = DecodeConfig()
    models: ModelsConfig = ModelsConfig()
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """Validate a mapping. Raises ConfigError, which lists every mistake."""
        try:
            return cls.model_validate(tree)
        except ValidationError as exc:
            raise ConfigError(explain(exc, cls)) from None

    def to_yaml(self) -> str:
        return yaml.dump(self.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
