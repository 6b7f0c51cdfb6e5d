"""Summarise a finished output: `_summary.json`, and the lines that a run prints at its end."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs import __version__, schema
from jobs.models import Spec
from jobs.output.layout import REJECTS, ROWS
from jobs.output.ledger import Ledger


@dataclass(frozen=True)
class Summary:
    """Counts of all committed objects, from their footers; `run` describes the last run that computed rows."""

    output: str
    shards: int
    rows: int
    rejects: int
    unselected: int
    reasons: dict[str, int]
    damaged_shards: dict[str, str]
    models: dict[str, Any]
    fingerprint: str
    run: dict[str, Any] = field(default_factory=dict)
    schema_version: int = schema.SCHEMA_VERSION
    coyo_jobs_version: str = __version__

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        rest = f" ({self.unselected:,} rows not selected)" if self.unselected else ""
        lines = [f"{self.rows:,} rows and {self.rejects:,} rejects from {self.shards:,} shards{rest} in {self.output}"]
        lines += [f"  rejected {count:>9,}  {reason}" for reason, count in self.reasons.items()]
        lines += [f"  damaged shard {name}: {why}" for name, why in self.damaged_shards.items()]
        if self.run:
            rows, seconds, rate = (self.run[name] for name in ("rows", "seconds", "rows_per_second"))
            lines.append(f"  {rows:,} input rows in {seconds:.1f} s, {rate:,.1f} rows/s")
            lines.append(f"  {self.run['advice']}")
        return "\n".join(lines)


def summarise(
    *, output: str, ledger: Ledger, specs: tuple[Spec, ...], fingerprint: str, run: dict[str, Any]
) -> Summary:
    coverage = ledger.coverage
    return Summary(
        output=output,
        shards=len(coverage),
        rows=ledger.count_rows(ROWS),
        rejects=ledger.count_rows(REJECTS),
        unselected=sum(part.unselected for part in coverage.values()),
        reasons=ledger.reasons,
        damaged_shards={name: part.damage for name, part in sorted(coverage.items()) if part.damage},
        models={
            spec.kind: spec.metadata | {"canvas": f"{spec.canvas.size[0]}x{spec.canvas.size[1]}"} for spec in specs
        },
        fingerprint=fingerprint,
        run=run,
    )
