"""Estimate time, bytes and cost of a job from a trial on a few hundred of its rows. Writes nothing."""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.nodes import Node
from jobs import schema
from jobs.config import FetchConfig, JobConfig
from jobs.driver.progress import format_duration
from jobs.driver.resources import Resources, choose_resources
from jobs.driver.tasks import plan_tasks
from jobs.errors import SourceError
from jobs.images.canvas import Pixels
from jobs.images.render import paint_rows, render
from jobs.models import Spec
from jobs.models.describe import describe_models
from jobs.output import footer, ledger
from jobs.row_ranges import coverage_by_shard
from jobs.sources import ReadUnit, Shard, Source, parquet
from jobs.sources.discover import discover, read
from jobs.storage import Storage

_FOOTERS = 16  # Parquet shards whose rows are counted, to estimate those of the others
_TRIAL_SHARDS = 3  # the first, one in the middle, the last
_MODEL_SECONDS = 20.0  # limit of the trial's model calls: full-size models on a laptop need many minutes for all rows
_MEMBER_BYTES = 1024  # of a tar beside a member's data: header and padding


@dataclass(frozen=True)
class Forecast:
    """An estimate of a job.

    `rows` are the rows to compute, an estimate if `about`, -1 if unknown. `decode_rate` is in rows/s per core and
    `model_rate` in rows/s per device. `selected` is a share. `reasons` count the rejects among the `tried` rows.
    """

    shards: int
    shards_done: int
    about: bool
    rows: int
    selected: float
    tried: int
    reasons: dict[str, int]
    bytes_to_read: int
    bytes_to_write: int
    objects: int
    decode_rate: float
    model_rate: float
    device: str
    devices: int
    cores: int
    cores_per_device: float
    seconds: float
    device_hours: float
    cost: float | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def __str__(self) -> str:
        rejected = sum(self.reasons.values()) / max(self.tried, 1)
        why = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        gpu = self.device == "cuda"
        lines = [
            f"shards    {self.shards:,}, {self.shards_done:,} of them finished",
            f"rows      {self._rows()}, {self.selected:.1%} selected",
            f"tried     {self.tried:,} rows: {rejected:.1%} rejected" + (f" ({why})" if why else ""),
            f"reads     at most {self.bytes_to_read / 1e9:,.3g} GB",
            f"writes    {self.bytes_to_write / 1e9:,.3g} GB in {self.objects:,} objects",
            f"rates     one core reads and decodes {self.decode_rate:,.0f} rows/s, "
            + (
                f"one GPU processes {self.model_rate:,.0f}"
                if gpu
                else f"models process {self.model_rate:,.0f} per core"
            ),
        ]
        if gpu:
            lines.append(f"cores     {self.cores_per_device:.1f} per GPU keep it busy")
        on = f"{self.devices} GPU{'s' * (self.devices > 1)} and {self.cores} cores" if gpu else f"{self.cores} cores"
        lines.append(
            f"time      {format_duration(self.seconds)} on {on}"
            + (f", {self.device_hours:,.2f} GPU-hours" if gpu else "")
        )
        if self.cost is not None:
            lines.append(f"cost      {self.cost:,.2f}")
        if not gpu:
            lines.append("          this machine has no GPU; for an estimate with GPUs run this on a machine with one")
        return "\n".join(lines)

    def _rows(self) -> str:
        if self.rows < 0:
            return "number unknown; the figures below are for 1,000"
        return f"{'about ' * self.about}{self.rows:,} to compute"


def forecast(
    config: JobConfig, *, rows: int = 256, gpus: int | None = None, cpus: int | None = None, price: float | None = None
) -> Forecast:
    """Try `rows` rows and extrapolate to the whole job.

    The job gets `gpus` GPUs and `cpus` cores, by default those of this machine; `price` is that of one GPU hour. Raises
    JobError where a run would.
    """
    from jobs.models.annotator import Annotator, ExecutionOptions, local_gpu_count

    storage = Storage(config.storage)
    source = discover(storage, config.source)
    specs = describe_models(config, storage)
    cores = cpus or os.cpu_count() or 1
    here = local_gpu_count()
    anywhere = config.compute.model_copy(update={"annotate_on": {}, "decode_on": {}})
    resources = choose_resources(anywhere, config.output, [Node("here", max(2, cores), here and (gpus or here))])
    work = plan_tasks(storage, source, ledger.read(storage, config.output.path).coverage, cores=cores)
    trial = _read_trial(storage, source, rows, config.fetch)
    decoded, decode_seconds = _decode(trial, config, specs)
    measured = config.compute.batch_size == "auto"
    options = ExecutionOptions(
        resources.device, config.compute.precision, batch_size=resources.batch_size, tune_batch_size=measured
    )
    done, model_rate = _annotate(Annotator(specs, options), decoded, resources)
    decode_rate = decoded.num_rows / (trial.seconds + decode_seconds)
    total, about = _rows_left(storage, source, trial, work.bytes_left)
    left = round((1000 if total < 0 else total) * trial.selected)
    left = min(left, config.source.limit or left)
    devices = resources.actors if resources.device == "cuda" else cores
    models, decoding = devices * model_rate, cores * decode_rate
    # GPUs and cores work in parallel; on CPU the models and the decoders share the cores.
    rate = min(models, decoding) if resources.device == "cuda" else 1 / (1 / models + 1 / decoding)
    hours = left / rate * devices / 3600 if resources.device == "cuda" else 0.0
    rejects = Counter(decoded.column(schema.REASON).drop_null().to_pylist())
    return Forecast(
        shards=work.shards, shards_done=work.shards_done, about=about, rows=total, selected=trial.selected,
        tried=trial.table.num_rows, reasons=dict(rejects.most_common()), bytes_to_read=work.bytes_left,
        bytes_to_write=round(left * _row_bytes(done)),
        objects=math.ceil(left / resources.rows_per_file) * (2 if rejects else 1),
        decode_rate=decode_rate, model_rate=model_rate, device=resources.device, devices=devices, cores=cores,
        cores_per_device=model_rate / decode_rate, seconds=left / rate, device_hours=hours,
        cost=hours * price if price is not None and resources.device == "cuda" else None,
    )  # fmt: skip


@dataclass(frozen=True)
class _Trial:
    """Raw rows, the seconds to read them, the share of rows that are selected, and the stored bytes per row."""

    table: pa.Table
    seconds: float
    selected: float
    stored: float


def _read_trial(storage: Storage, source: Source, rows: int, fetch: FetchConfig) -> _Trial:
    """Read rows from a few shards. Raises SourceError if none is selected."""
    shards = _spread(source.shards, _TRIAL_SHARDS)
    since = time.perf_counter()
    tables: list[pa.Table] = []
    accounted = 0
    for shard in shards:
        count = 0
        for table in read(storage, source.layout, ReadUnit(shard), fetch):
            accounted += sum(
                part.span for part in coverage_by_shard(table.filter(pc.invert(table.column(schema.END)))).values()
            )
            accounted += sum(end[schema.ROW] - end[schema.SINCE] for end in _ends(table))
            tables.append(table.filter(pc.invert(table.column(schema.END))))
            count += tables[-1].num_rows
            if count * len(shards) >= rows:
                break
    trial = pa.concat_tables(tables)
    if trial.num_rows == 0:
        raise SourceError("no row is selected in the shards of the trial", "check source.where and source.sample")
    seconds = time.perf_counter() - since
    sizes = pc.sum(pc.binary_length(trial.column(schema.IMAGE))).as_py() or 0
    return _Trial(trial, seconds, trial.num_rows / max(accounted, 1), sizes / trial.num_rows + 3 * _MEMBER_BYTES)


def _ends(table: pa.Table) -> list[dict[str, int]]:
    ends: list[dict[str, int]] = table.filter(table.column(schema.END)).select([schema.SINCE, schema.ROW]).to_pylist()
    return ends


def _decode(trial: _Trial, config: JobConfig, specs: Sequence[Spec]) -> tuple[pa.Table, float]:
    canvases = list(dict.fromkeys(spec.canvas for spec in specs))

    def decode_image(data: bytes) -> list[Pixels]:
        return render(data, config.decode, canvases, fast=config.compute.canvas == "fast")

    paint_rows(trial.table.slice(0, 1), config.decode, canvases, decode_image)  # the first call imports modules
    since = time.perf_counter()
    decoded = paint_rows(trial.table, config.decode, canvases, decode_image)
    return decoded, time.perf_counter() - since


def _annotate(annotator: Any, decoded: pa.Table, resources: Resources) -> tuple[pa.Table, float]:
    """Run the models for at most _MODEL_SECONDS. Return the annotated rows and the rows/s."""
    size = resources.batch_size
    annotator(decoded.slice(0, size))  # the first call compiles and allocates
    since, done = time.perf_counter(), list[pa.Table]()
    for at in range(0, decoded.num_rows, size):
        done.append(annotator(decoded.slice(at, size)))
        if time.perf_counter() - since > _MODEL_SECONDS:
            break
    table = pa.concat_tables(done)
    return table, table.num_rows / (time.perf_counter() - since)


def _rows_left(storage: Storage, source: Source, trial: _Trial, bytes_left: int) -> tuple[int, bool]:
    """Return the rows of the unfinished shards, -1 if unknown, and whether that is an estimate."""
    if source.layout.dataset is not None:
        return -1, True
    if source.layout.format == "webdataset":
        return round(bytes_left / trial.stored), True
    shards = _spread(source.shards, _FOOTERS)
    rows = sum(count for shard in shards for count, _ in parquet.row_groups(storage, shard))
    size = sum(shard.entry.size for shard in shards)
    return round(rows * bytes_left / max(size, 1)), len(shards) < len(source.shards)


def _row_bytes(done: pa.Table) -> float:
    """Return the bytes per row in rows/."""
    good = done.filter(pc.is_null(done.column(schema.REASON)))
    table = good.select(schema.rows(good.schema).names)
    return float(len(footer.parquet_bytes(table, {})) / max(1, table.num_rows))


def _spread(shards: Sequence[Shard], count: int) -> list[Shard]:
    last = len(shards) - 1
    return [shards[i] for i in sorted({round(n * last / max(1, count - 1)) for n in range(count)})]
