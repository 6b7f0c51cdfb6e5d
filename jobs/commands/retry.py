"""Recompute rejected rows: drop their rejects from the output, then run the job, which computes every missing row.

Each object is replaced atomically by one without the dropped rows. A retry that is killed leaves an output with missing
rows, which `coyo-jobs run` completes. No row can be there twice.
"""

import json
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import log, row_ranges, schema
from jobs.config import JobConfig
from jobs.driver.lease import Lease
from jobs.errors import TRANSIENT_REASONS, ConfigError, Reason
from jobs.output import footer, ledger
from jobs.output.identity import load_job
from jobs.output.layout import REJECTS, SUCCESS
from jobs.output.ledger import OutputObject
from jobs.output.summary import Summary
from jobs.row_ranges import Coverage
from jobs.storage import Storage
from jobs.storage.paths import join_path


def retry(output: str, reasons: Collection[str]) -> Summary:
    """Drop the rejects with these reasons, by default all transient ones, and run the job. Raises JobError."""
    from jobs.run import run

    storage, config = load_job(output)
    dropped = drop_rejects(storage, config, reasons or TRANSIENT_REASONS, f"retry-{uuid.uuid4().hex[:6]}")
    log.say("retry", f"{dropped:,} rejected rows to compute again", rows=dropped)
    # Rows that failed once mostly fail again: that is no sign of a wrong input.
    limits = config.limits.model_copy(update={"max_reject_fraction": 1.0})
    return run(config.model_copy(update={"limits": limits}))


def drop_rejects(storage: Storage, config: JobConfig, reasons: Collection[str], run: str) -> int:
    """Drop the rejects with these reasons from the output and return their number. Raises ConfigError, OutputError."""
    if unknown := set(reasons) - set(Reason):
        raise ConfigError(f"--reason {sorted(unknown)[0]}: no such reason", f"the reasons: {', '.join(Reason)}")
    output = config.output.path
    objects = ledger.read(storage, output).objects
    # For a damaged shard drop the recorded end and damage, too: both were read from the damaged file.
    reread = Reason.SHARD_DAMAGED in reasons
    damaged = {name for obj in objects for name, part in obj.shards.items() if reread and part.damage}
    touched = [obj for obj in objects if set(obj.reasons) & set(reasons) or damaged & set(obj.shards)]
    if not touched:
        return 0
    lease = Lease(storage, output, run)
    lease.acquire()
    try:
        if storage.exists(join_path(output, SUCCESS)):
            storage.delete(join_path(output, SUCCESS))
        for obj in touched:
            lease.renew()
            _rewrite(storage, obj, set(reasons), damaged)
    finally:
        lease.release()
    return sum(count for obj in touched for reason, count in obj.reasons.items() if reason in reasons)


def _rewrite(storage: Storage, obj: OutputObject, reasons: set[str], damaged: set[str]) -> None:
    """Replace an object by one without the rejects of these reasons, and without the ends of damaged shards."""
    table = pq.read_table(storage.open(obj.entry))
    kept, shards = table, dict(obj.shards)
    if obj.folder == REJECTS:
        dropped = pa.array([why in reasons for why in table.column(schema.REJECT_REASON).to_pylist()], pa.bool_())
        kept, gone = table.filter(pc.invert(dropped)), row_ranges.coverage_by_shard(table.filter(dropped))
        shards |= {n: replace(shards[n], ranges=row_ranges.subtract(shards[n].ranges, gone[n].ranges)) for n in gone}
    shards |= {n: Coverage(part.ranges, unselected=part.unselected) for n, part in shards.items() if n in damaged}
    _, about = footer.decode_provenance(table.schema.metadata[schema.PROVENANCE.encode()])
    if obj.folder == REJECTS:
        about["reasons"] = json.dumps(Counter(kept.column(schema.REJECT_REASON).to_pylist()))
    metadata = {**table.schema.metadata, schema.PROVENANCE.encode(): footer.encode_provenance(shards, **about)}
    storage.put(obj.entry.path, footer.parquet_bytes(kept, metadata))
