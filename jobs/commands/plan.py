"""What a job will take, from a trial of a few hundred of its rows on this machine; nothing is written."""

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
from jobs.driver.progress import clock
from jobs.driver.resources import Resources, decide
from jobs.driver.tasks import plan
from jobs.errors import SourceError
from jobs.images.canvas import Pixels
from jobs.images.render import paint_rows, render
from jobs.models import Spec
from jobs.models.describe import describe_models
from jobs.output import footer, ledger
from jobs.row_ranges import coverage_by_shard
from jobs.sources import Shard, Source, Unit, parquet
from jobs.sources.discover import discover, read
from jobs.storage import Storage

_FOOTERS = 16  # Parquet shards whose rows are counted; the others are taken to be like them
_PLACES = 3  # shards that the trial's rows come from: the first, one in the middle, the last
_PATIENCE = 20.0  # seconds of model calls: full-size models on a laptop would take many minutes for all rows
_MEMBER = 1024  # bytes of a tar around a member: its header, and half a block of padding or more


@dataclass(frozen=True)
class Forecast:
    """Rates are rows per second: of one core, and of one device. Rows are estimates where `about` is true; -1 where
    nothing says how many there are. `reasons` are of the `tried` rows."""

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
            f"reads     {self.bytes_to_read / 1e9:,.3g} GB, at most",
            f"writes    {self.bytes_to_write / 1e9:,.3g} GB in {self.objects:,} objects",
            f"rates     a core reads and decodes {self.decode_rate:,.0f} rows/s, "
            + (f"a GPU takes {self.model_rate:,.0f}" if gpu else f"the models on a core {self.model_rate:,.0f}"),
        ]
        if gpu:
            lines.append(f"cores     {self.cores_per_device:.1f} for each GPU keep it busy")
        on = f"{self.devices} GPU{'s' * (self.devices > 1)} and {self.cores} cores" if gpu else f"{self.cores} cores"
        lines.append(
            f"time      {clock(self.seconds)} on {on}" + (f", {self.device_hours:,.2f} GPU-hours" if gpu else "")
        )
        if self.cost is not None:
            lines.append(f"cost      {self.cost:,.2f}")
        if not gpu:
            lines.append("          this machine has no GPU: run it where there is one to see what GPUs would take")
        return "\n".join(lines)

    def _rows(self) -> str:
        if self.rows < 0:
            return "nobody knows how many; the figures below are for 1,000"
        return f"{'about ' * self.about}{self.rows:,} to compute"


def forecast(
    config: JobConfig, *, rows: int = 256, gpus: int | None = None, cpus: int | None = None, price: float | None = None
) -> Forecast:
    """Try `rows` rows and scale up: on `gpus` GPUs at `price` an hour each, and `cpus` cores, or this machine's.

    Raises JobError where a run would.
    """
    from jobs.models.annotator import Annotator, ExecutionOptions, local_gpu_count

    storage = Storage(config.storage)
    source = discover(storage, config.source)
    specs = describe_models(config, storage)
    cores = cpus or os.cpu_count() or 1
    here = local_gpu_count()
    anywhere = config.compute.model_copy(update={"annotate_on": {}, "decode_on": {}})
    resources = decide(anywhere, config.output, [Node("here", max(2, cores), here and (gpus or here))])
    work = plan(storage, source, ledger.read(storage, config.output.path).coverage, cores=cores)
    trial = _tried(storage, source, rows, config.fetch)
    decoded, decode_seconds = _decoded(trial, config, specs)
    measured = config.compute.batch_size == "auto"
    how = ExecutionOptions(
        resources.device, config.compute.precision, batch_size=resources.batch_size, tune_batch_size=measured
    )
    done, model_rate = _annotated(Annotator(specs, how), decoded, resources)
    decode_rate = decoded.num_rows / (trial.seconds + decode_seconds)
    total, about = _rows_left(storage, source, trial, work.bytes_left)
    left = round((1000 if total < 0 else total) * trial.selected)
    left = min(left, config.source.limit or left)
    devices = resources.actors if resources.device == "cuda" else cores
    device_rate = devices * model_rate
    feed = cores * decode_rate
    # GPUs and cores work at the same time; on CPU the models and the decoders share the cores.
    rate = min(device_rate, feed) if resources.device == "cuda" else 1 / (1 / device_rate + 1 / feed)
    hours = left / rate * devices / 3600 if resources.device == "cuda" else 0.0
    rejects = Counter(decoded.column(schema.REASON).drop_null().to_pylist())
    return Forecast(
        shards=work.shards, shards_done=work.shards_done, about=about, rows=total, selected=trial.selected,
        tried=trial.table.num_rows, reasons=dict(rejects.most_common()), bytes_to_read=work.bytes_left,
        bytes_to_write=round(left * _stored(done)),
        objects=math.ceil(left / resources.rows_per_file) * (2 if rejects else 1),
        decode_rate=decode_rate, model_rate=model_rate, device=resources.device, devices=devices, cores=cores,
        cores_per_device=model_rate / decode_rate, seconds=left / rate, device_hours=hours,
        cost=hours * price if price is not None and resources.device == "cuda" else None,
    )  # fmt: skip


@dataclass(frozen=True)
class _Trial:
    """Some raw rows, the seconds it took to read them, the share of rows that are selected, and bytes stored a row."""

    table: pa.Table
    seconds: float
    selected: float
    stored: float


def _tried(storage: Storage, source: Source, rows: int, fetch: FetchConfig) -> _Trial:
    """Rows from a few places of the corpus. Raises SourceError when there are none."""
    shards = _spread(source.shards, _PLACES)
    since = time.perf_counter()
    tables: list[pa.Table] = []
    answered = 0
    for shard in shards:
        found = 0
        for table in read(storage, source.layout, Unit(shard), fetch):
            answered += sum(
                part.span for part in coverage_by_shard(table.filter(pc.invert(table.column(schema.END)))).values()
            )
            answered += sum(end[schema.ROW] - end[schema.SINCE] for end in _ends(table))
            tables.append(table.filter(pc.invert(table.column(schema.END))))
            found += tables[-1].num_rows
            if found * len(shards) >= rows:
                break
    trial = pa.concat_tables(tables)
    if trial.num_rows == 0:
        raise SourceError("no row is selected in the shards that were tried", "check source.where and source.sample")
    seconds = time.perf_counter() - since
    sizes = pc.sum(pc.binary_length(trial.column(schema.IMAGE))).as_py() or 0
    return _Trial(trial, seconds, trial.num_rows / max(answered, 1), sizes / trial.num_rows + 3 * _MEMBER)


def _ends(table: pa.Table) -> list[dict[str, int]]:
    ends: list[dict[str, int]] = table.filter(table.column(schema.END)).select([schema.SINCE, schema.ROW]).to_pylist()
    return ends


def _decoded(trial: _Trial, config: JobConfig, specs: Sequence[Spec]) -> tuple[pa.Table, float]:
    canvases = list(dict.fromkeys(spec.canvas for spec in specs))

    def by(data: bytes) -> list[Pixels]:
        return render(data, config.decode, canvases, fast=config.compute.canvas == "fast")

    paint_rows(trial.table.slice(0, 1), config.decode, canvases, by)  # the first call imports
    since = time.perf_counter()
    decoded = paint_rows(trial.table, config.decode, canvases, by)
    return decoded, time.perf_counter() - since


def _annotated(annotator: Any, decoded: pa.Table, resources: Resources) -> tuple[pa.Table, float]:
    """What the models say of as many rows as they take in _PATIENCE seconds, and their rows/s."""
    size = resources.batch_size
    annotator(decoded.slice(0, size))  # the first call compiles and allocates
    since, done = time.perf_counter(), list[pa.Table]()
    for at in range(0, decoded.num_rows, size):
        done.append(annotator(decoded.slice(at, size)))
        if time.perf_counter() - since > _PATIENCE:
            break
    table = pa.concat_tables(done)
    return table, table.num_rows / (time.perf_counter() - since)


def _rows_left(storage: Storage, source: Source, trial: _Trial, bytes_left: int) -> tuple[int, bool]:
    """(rows of the shards that are left, whether that is an estimate); -1 where nothing tells."""
    if source.layout.dataset is not None:
        return -1, True
    if source.layout.format == "webdataset":
        return round(bytes_left / trial.stored), True
    shards = _spread(source.shards, _FOOTERS)
    rows = sum(count for shard in shards for count, _ in parquet.row_groups(storage, shard))
    size = sum(shard.entry.size for shard in shards)
    return round(rows * bytes_left / max(size, 1)), len(shards) < len(source.shards)


def _stored(done: pa.Table) -> float:
    """Bytes of a row in rows/."""
    good = done.filter(pc.is_null(done.column(schema.REASON)))
    table = good.select(schema.rows(good.schema).names)
    return float(len(footer.parquet_bytes(table, {})) / max(1, table.num_rows))


def _spread(shards: Sequence[Shard], count: int) -> list[Shard]:
    last = len(shards) - 1
    return [shards[i] for i in sorted({round(n * last / max(1, count - 1)) for n in range(count)})]
