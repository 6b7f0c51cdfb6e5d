"""Select rows of a source by `source.where` and `source.sample`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from jobs.config import SourceConfig
from jobs.errors import SourceError
from jobs.sources.where import Condition, parse

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Selection:
    """Which rows to process. `fields` are the columns that `where` names, with their types in the source."""

    where: str | None = None
    fields: tuple[pa.Field, ...] = ()
    fraction: float = 1.0
    seed: int = 0

    @classmethod
    def from_config(cls, config: SourceConfig, columns: Mapping[str, pa.DataType], path: str) -> "Selection":
        """Raises SourceError for a missing column, ConfigError for a condition that does not fit a column's type."""
        fields: tuple[pa.Field, ...] = ()
        if config.where is not None:
            where = parse(config.where)
            for name in where.columns:
                if name not in columns:
                    raise SourceError(
                        f"{path}: no column {name!r} (source.where)", f"its columns: {', '.join(columns)}"
                    )
            fields = tuple(pa.field(name, columns[name]) for name in where.columns)
            where.evaluate(pa.schema(fields).empty_table())
        sample = config.sample
        return cls(config.where, fields, sample.fraction if sample else 1.0, sample.seed if sample else 0)

    @property
    def column_names(self) -> list[str]:
        """The columns that `where` names."""
        return [field.name for field in self.fields]

    @cached_property
    def condition(self) -> Condition | None:
        """`where`, parsed."""
        return None if self.where is None else parse(self.where)

    def mask(self, shard: str, first: int, count: int, columns: pa.Table | None, broken: Mask | None = None) -> Mask:
        """Mask of the selected rows among `count` rows from `first` on, bool [count].

        `columns` are the values for `where`; without them, only `sample` applies. Rows marked in `broken`, bool
        [count], have unreadable values, so `where` does not exclude them.
        """
        selected = np.ones(count, bool)
        if self.fraction < 1.0:
            selected &= _uniform(f"{self.seed}/{shard}", first, count) < self.fraction
        if self.condition is not None and columns is not None:
            table = columns if columns.num_columns else pa.table({"": pa.nulls(count)})
            matches = self.condition.evaluate(table).to_numpy()
            selected &= matches if broken is None else matches | broken
        return selected


def describe_selection(config: SourceConfig) -> list[str]:
    """Describe the recipe's selection for the user."""
    parts = [f"rows where {config.where}"] if config.where is not None else []
    parts += [f"a sample of {config.sample.fraction:.3g}"] if config.sample is not None else []
    return parts + ([f"the first {config.limit:,}"] if config.limit is not None else [])


EVERYTHING = Selection()


def _uniform(salt: str, first: int, count: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A uniform number in [0, 1) per row, float64 [count], from salt and row only: splitmix64 (Steele et al., 2014)."""
    start = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / (1 << 53)
