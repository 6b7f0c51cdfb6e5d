"""run(config) -> Summary: plan, pipeline, finalise. The one way to run a job."""

import json
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import local
from jobs import __version__, identity, ledger
from jobs.config import JobConfig
from jobs.errors import JobError, OutputError
from jobs.ledger import Ledger
from jobs.meter import Meter, Reporter, Snapshot
from jobs.models import Spec
from jobs.pipeline import Pipeline, Resources, decide
from jobs.plan import Work, plan
from jobs.progress import Progress
from jobs.sink import ParquetSink, Writer
from jobs.sources import Source
from jobs.sources.discover import discover
from jobs.storage import Storage, absolute, join
from jobs.summary import Summary, describe_run, summarise

LABELS, SUMMARY, SUCCESS = "_labels.json", "_summary.json", "_SUCCESS"


def run(config: JobConfig) -> Summary:
    """Give every row of the source its labels and embeddings, once; go on where an earlier run stopped.

    Raises JobError. When it returns, every input row is in rows/ or rejects/, and `_SUCCESS` is there.
    """
    storage = Storage(config.storage)
    source = discover(storage, config.source)
    _say(f"source    {source.said}")
    _check_output(storage, config)
    specs = describe_models(config, storage)
    pinned = identity.pin(config, source.layout.format, specs)
    identity.claim(storage, pinned)
    committed = ledger.read(storage, config.output.path)
    job = _Job(pinned, storage, source, specs, identity.fingerprint(pinned))
    if not ledger.missing(committed.coverage, [shard.name for shard in source.shards]):
        _say(f"output    already complete: {config.output.path}")
        return job.finalise(committed, {})
    if storage.exists(join(config.output.path, SUCCESS)):  # shards were added since
        storage.delete(join(config.output.path, SUCCESS))
    with local.session() as cluster:
        return job.execute(committed, cluster)


def describe_models(config: JobConfig, storage: Storage) -> tuple[Spec, ...]:
    """Resolve and load each checkpoint once, before any cluster is used. Raises CheckpointError."""
    from jobs.models import align, vit, weights

    specs: list[Spec] = []
    if config.models.vit:
        pinned, folder = weights.pin("vit", config.models.vit.weights, config.models.vit.revision, storage)
        specs.append(vit.describe(config.models.vit, pinned, folder))
    if config.models.align:
        pinned, folder = weights.pin("align", config.models.align.weights, config.models.align.revision, storage)
        specs.append(align.describe(config.models.align, pinned, folder, config.output.embedding_dtype))
    for spec in specs:
        _say(
            f"model     {spec.kind}: {spec.weights.name}, {spec.about['architecture']}, "
            f"{spec.canvas.size[0]}x{spec.canvas.size[1]} pixels"
        )
    return tuple(specs)


@dataclass(frozen=True)
class _Job:
    """A job that is understood and has its output."""

    config: JobConfig
    storage: Storage
    source: Source
    specs: tuple[Spec, ...]
    fingerprint: str

    @property
    def path(self) -> str:
        return self.config.output.path

    def execute(self, committed: Ledger, cluster: Mapping[str, float]) -> Summary:
        began = time.monotonic()
        run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        resources = decide(self.config.compute, self.config.output, cluster)
        work = plan(self.storage, self.source, committed.coverage, int(cluster.get("CPU", 1)))
        _say(f"plan      {work.shards - work.shards_done} of {work.shards} shards to read; {resources}")
        seen = self._stream(work, resources, run)
        now = ledger.read(self.storage, self.path)
        late = now.late(committed, run)
        for obj in late:
            self.storage.delete(obj.entry.path)
        now = now.without(late)
        done = sum(obj.count for obj in now.objects if obj.run == run)
        about = describe_run(
            run=run, rows=done, seconds=time.monotonic() - began, seen=seen, resources=resources, cluster=cluster
        )
        return self.finalise(now, about)

    def _stream(self, work: Work, resources: Resources, run: str) -> Snapshot:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        meter = ray.remote(Meter).options(num_cpus=0, scheduling_strategy=here).remote()
        report = Reporter(_Send(meter))
        pipeline = Pipeline(self.config, self.source.layout, self.specs, resources, report)
        about = {"run": run, "job": self.fingerprint, "version": __version__}
        writer = Writer(self.storage, self.path, pipeline.annotated, self.specs, about)
        sink = ParquetSink(writer, run, resources.rows_per_file, report)
        with Progress(work, lambda: _look(meter)) as progress:
            try:
                pipeline.write(pipeline.build(work.tasks), sink)
            except RayError as exc:
                raise _cause(exc) from exc
        written = {obj.folder for obj in ledger.read(self.storage, self.path).objects}
        for folder in set(ledger.FOLDERS) - written:
            writer.write_empty(folder, f"part-{run}-empty.parquet")
        return progress.seen

    def finalise(self, now: Ledger, run: dict[str, Any]) -> Summary:
        """Prove from the footers that every row is in exactly one object, and say so; or say what is missing."""
        shards = [shard.name for shard in self.source.shards]
        coverage = now.coverage
        if problems := ledger.missing(coverage, shards):
            some = "; ".join(f"{name}: {why}" for name, why in list(problems.items())[:3])
            raise OutputError(
                f"{len(problems)} shards are not complete: {some}", "run the same command again: it goes on here"
            )
        counted = sum(obj.count for obj in now.objects)
        covered = sum(part.count for part in coverage.values())
        if counted != covered:
            raise OutputError(
                f"{self.path}: {counted - covered} rows are in more than one object", "two runs wrote here at once"
            )
        summary = summarise(output=self.path, ledger=now, specs=self.specs, fingerprint=self.fingerprint, run=run)
        if run or not self.storage.exists(join(self.path, SUCCESS)):
            labels = {spec.kind: list(spec.labels) for spec in self.specs if spec.labels}
            if labels:
                self.storage.put(
                    join(self.path, LABELS), json.dumps(labels["vit"], ensure_ascii=False, indent=0).encode()
                )
            self.storage.put(join(self.path, SUMMARY), summary.to_json().encode())
            self.storage.put(join(self.path, SUCCESS), b"")
        return summary


@dataclass(frozen=True)
class _Send:
    """Reaches the meter's actor without waiting for it."""

    meter: Any

    def __call__(self, method: str, *args: Any) -> None:
        getattr(self.meter, method).remote(*args)


def _look(meter: Any) -> Snapshot | None:
    try:
        seen: Snapshot = ray.get(meter.snapshot.remote(), timeout=5)
    except (RayActorError, ray.exceptions.GetTimeoutError):
        return None  # only the display suffers
    return replace(seen)


def _cause(exc: RayError) -> JobError:
    """The one error that matters, out of the layers Ray puts around it."""
    inner: BaseException = exc
    while isinstance(inner, RayTaskError) and isinstance(inner.cause, BaseException):
        inner = inner.cause
    if isinstance(inner, JobError):
        return inner
    last = [line for line in str(inner).strip().splitlines() if line.strip()][-1:]
    return JobError(
        f"the run stopped: {type(inner).__name__}: {''.join(last)}", "run the same command again to go on where it was"
    )


def _check_output(storage: Storage, config: JobConfig) -> None:
    """The output can be written, and is not where the input is looked for."""
    out = absolute(config.output.path)
    for path in [config.source.path] if isinstance(config.source.path, str) else config.source.path:
        if f"{out}/".startswith(f"{absolute(path)}/"):
            raise OutputError(
                f"{config.output.path}: the output lies inside the source {path}", "results would be read as input"
            )
    probe = join(config.output.path, "_probe")
    storage.put(probe, b"")
    storage.delete(probe)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
