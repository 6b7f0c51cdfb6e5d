"""Compute rejected rows again: forget their rejects, then run. Rows that are not committed are what a run computes.

An object is replaced whole by one without the forgotten rows, so a retry that is killed anywhere is an output with
some rows missing, and `coyo-jobs run` completes it. No row can come to be there twice.
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
from jobs.errors import TRANSIENT, ConfigError, Reason
from jobs.output import footer, ledger
from jobs.output.identity import load_job
from jobs.output.layout import REJECTS, SUCCESS
from jobs.output.ledger import OutputObject
from jobs.output.summary import Summary
from jobs.row_ranges import Coverage
from jobs.storage import Storage
from jobs.storage.paths import join_path


def retry(output: str, reasons: Collection[str]) -> Summary:
    """Forget and run. Without reasons: the ones that time may heal. Raises JobError."""
    from jobs.run import run

    storage, config = load_job(output)
    dropped = forget(storage, config, reasons or TRANSIENT, f"retry-{uuid.uuid4().hex[:6]}")
    log.say("retry", f"{dropped:,} rejected rows to compute again", rows=dropped)
    # That most of what failed once fails again says nothing of the input.
    limits = config.limits.model_copy(update={"max_reject_fraction": 1.0})
    return run(config.model_copy(update={"limits": limits}))


def forget(storage: Storage, config: JobConfig, reasons: Collection[str], run: str) -> int:
    """Drop the rejects with these reasons from the output; how many there were."""
    if unknown := set(reasons) - set(Reason):
        raise ConfigError(f"--reason {sorted(unknown)[0]}: no such reason", f"the reasons: {', '.join(Reason)}")
    output = config.output.path
    objects = ledger.read(storage, output).objects
    mend = Reason.SHARD_DAMAGED in reasons  # what is known of such a shard, its end too, was known from the damaged one
    broken = {name for obj in objects for name, part in obj.shards.items() if mend and part.damage}
    touched = [obj for obj in objects if set(obj.reasons) & set(reasons) or broken & set(obj.shards)]
    if not touched:
        return 0
    lease = Lease(storage, output, run)
    lease.acquire()
    try:
        if storage.exists(join_path(output, SUCCESS)):
            storage.delete(join_path(output, SUCCESS))
        for obj in touched:
            lease.renew()
            _rewrite(storage, obj, set(reasons), broken)
    finally:
        lease.release()
    return sum(count for obj in touched for reason, count in obj.reasons.items() if reason in reasons)


def _rewrite(storage: Storage, obj: OutputObject, reasons: set[str], broken: set[str]) -> None:
    table = pq.read_table(storage.open(obj.entry))
    kept, left = table, dict(obj.shards)
    if obj.folder == REJECTS:
        again = pa.array([why in reasons for why in table.column(schema.REJECT_REASON).to_pylist()], pa.bool_())
        kept, gone = table.filter(pc.invert(again)), row_ranges.coverage_by_shard(table.filter(again))
        left |= {n: replace(left[n], ranges=row_ranges.subtract(left[n].ranges, gone[n].ranges)) for n in gone}
    left |= {n: Coverage(part.ranges, unselected=part.unselected) for n, part in left.items() if n in broken}
    _, about = footer.decode_provenance(table.schema.metadata[schema.PROVENANCE.encode()])
    if obj.folder == REJECTS:
        about["reasons"] = json.dumps(Counter(kept.column(schema.REJECT_REASON).to_pylist()))
    metadata = {**table.schema.metadata, schema.PROVENANCE.encode(): footer.encode_provenance(left, **about)}
    storage.put(obj.entry.path, footer.parquet_bytes(kept, metadata))
