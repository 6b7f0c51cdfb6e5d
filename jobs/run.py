"""run(config) -> Summary: plan, pipeline, finalise. The one way to run a job."""

import json
import os
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.exceptions import RayError

from cluster import imports, local
from cluster.local import Session
from cluster.nodes import totals
from jobs import PACKAGES, __version__, log, schema
from jobs.config import JobConfig
from jobs.driver.coordinator import CoordinatorHandle
from jobs.driver.lease import Lease
from jobs.driver.profile import describe_run
from jobs.driver.prometheus import Metrics
from jobs.driver.remote import NodeWatcher, cause, reserved
from jobs.driver.resources import Resources
from jobs.driver.supervisor import QueuedRun, Supervisor
from jobs.driver.tasks import Partition, Work, plan
from jobs.errors import ClusterError, OutputError, SetAside, StorageError
from jobs.models import Spec
from jobs.models.describe import describe_models
from jobs.output import identity, images, ledger
from jobs.output.layout import FOLDERS, IMAGES, LABEL_NAMES, ROWS, SUCCESS, SUMMARY, ZERO_SHOT_LABEL_NAMES
from jobs.output.ledger import Ledger, Object
from jobs.output.summary import Summary, summarise
from jobs.output.writer import Writer
from jobs.pipeline import Pipeline
from jobs.pipeline.write import ParquetSink
from jobs.sources import Source
from jobs.sources.discover import discover
from jobs.storage import Storage
from jobs.storage.paths import join_path

_AGAIN = 3  # times that a run goes on by itself


def run(config: JobConfig, part: Partition | None = None) -> Summary:
    """Give every row of the source its labels and embeddings, once; go on where an earlier run stopped.

    With a part, only its shards; the run that finds the last row committed finalises. Raises JobError. When it
    returns, every input row (of the part) is in rows/ or rejects/; when none is missing, `_SUCCESS` is there.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    log.begin(run_id)
    part, storage = part or Partition(), Storage(config.storage)
    source = discover(storage, config.source)
    log.say("source", source.said, shards=len(source.shards), format=source.layout.format)
    identity.check_output(storage, config)
    committed = ledger.read(storage, config.output.path)
    source = _as_begun(storage, source, committed)
    shards = [shard.name for shard in source.shards if part.holds(shard)]
    if not ledger.missing(committed.coverage, shards) and not committed.overlapping():
        job = _Job.of(config, storage, source, part)
        log.say("output", f"already complete: {config.output.path}")
        return _announced(job.finalise(committed, {}))
    try:
        with local.session(PACKAGES) as session:  # Ray starts while the models are described
            return _announced(_Job.of(config, storage, source, part).run(session, run_id))
    except imports.ShadowedError as exc:
        raise ClusterError(exc.message, exc.hint) from exc
    except ConnectionError as exc:
        raise ClusterError(
            f"Ray cannot be reached: {exc}", "check RAY_ADDRESS, or unset it to run on this machine"
        ) from exc


def _as_begun(storage: Storage, source: Source, committed: Ledger) -> Source:
    """With the types of the rows that are there: those of the first shard, which may have come since, may be others.
    Raises OutputError for a data set that was cut into other pieces then: their rows would be there again.
    """
    names = {shard.name for shard in source.shards}
    if source.layout.dataset and (gone := sorted(committed.coverage.keys() - names)):
        said = f"the output holds rows of {gone[0]}, and {source.layout.dataset.name} has other shards now"
        raise OutputError(said, "give the job an output folder of its own, or put the data set back")
    rows = next((obj for obj in committed.objects if obj.folder == ROWS), None)
    there = pq.read_schema(storage.open(rows.entry)) if rows else pa.schema([])
    layout = source.layout
    if {schema.KEY, *(field.name for field in layout.kept)} <= set(there.names):
        kept = tuple(field.with_type(there.field(field.name).type) for field in layout.kept)
        layout = replace(layout, key_type=there.field(schema.KEY).type, kept=kept)
    return replace(source, layout=layout)


@dataclass(frozen=True)
class _Job:
    """A job that is understood and has its output."""

    config: JobConfig
    storage: Storage
    source: Source
    specs: tuple[Spec, ...]
    fingerprint: str
    part: Partition

    @classmethod
    def of(cls, config: JobConfig, storage: Storage, source: Source, part: Partition) -> "_Job":
        """Raises CheckpointError for a model, OutputError for an output that is another job's."""
        specs = describe_models(config, storage)
        pinned = identity.pin_config(config, source.pinned, specs)
        identity.claim_output(storage, pinned)
        return cls(pinned, storage, source, specs, identity.fingerprint(pinned), part)

    def run(self, session: Session, run_id: str) -> Summary:
        """Under the lease: nobody else writes these shards."""
        lease = Lease(self.storage, self.path, run_id, self.part)
        lease.acquire()
        try:
            if self.storage.exists(join_path(self.path, SUCCESS)):  # shards were added since
                self.storage.delete(join_path(self.path, SUCCESS))
            committed = self.mended()
            if not self.torn(committed):
                return self.finalise(committed, {})
            return self.execute(run_id, lease, committed, session)
        finally:
            with suppress(StorageError):  # it ends by itself, and must not hide what the run ends with
                lease.release()

    @property
    def path(self) -> str:
        return self.config.output.path

    @property
    def shards(self) -> list[str]:
        """The part's shards, by name."""
        return [shard.name for shard in self.source.shards if self.part.holds(shard)]

    def torn(self, now: Ledger) -> bool:
        """Whether rows are missing, or there twice."""
        return bool(ledger.missing(now.coverage, self.shards) or now.overlapping())

    def mended(self) -> Ledger:
        """What is committed, each row once."""
        now = ledger.read(self.storage, self.path)
        return self._drop(now.overlapping(), now)

    def execute(self, run: str, lease: Lease, committed: Ledger, session: Session, again: int = _AGAIN) -> Summary:
        waiting = QueuedRun(run, self.part.suffix, self.storage, self.path, lease)
        with ExitStack() as placing:
            with waiting.until_it_ends():
                resources, coordinator = placing.enter_context(reserved(run, self.config, session, waiting.tell))
            began, cpu = time.monotonic(), time.process_time()
            cluster = totals(session.nodes())
            work = self._planned(committed, resources, int(cluster.get("CPU", 1)))
            if resources.device == "cpu" and self.config.compute.device == "auto" and not session.own:
                log.say(
                    "note", "Ray sees no GPU, so the models run on CPU; compute.device: cuda waits for GPUs to come"
                )
            watch = self._stream(work, resources, run, lease, session, coordinator)
        now = self._settled(committed, run)
        if watch.seen.set_aside and ledger.missing(now.coverage, self.shards):
            watch.publish("incomplete")
            some = "; ".join(watch.seen.set_aside.values())
            raise SetAside(f"shards were set aside: {some}", "run the same command to try them again")
        if again and self.torn(now):
            # Ray goes on by their numbers when it repeats a task whose process died; but fetched tables come as their
            # urls are answered, and the same number is another table.
            log.say("note", "rows are missing or there twice, as a process died that fetched; they are computed again")
            return self.execute(f"{run}-again", lease, self.mended(), session, again - 1)
        mine = Ledger(tuple(obj for obj in now.objects if obj.run == run))
        about = describe_run(
            run=run,
            rows=sum(obj.count for obj in mine.objects),
            seconds=time.monotonic() - began,
            driver_seconds=time.process_time() - cpu,
            seen=watch.seen,
            resources=resources,
            cluster=cluster,
        )
        summary = self.finalise(now, about)
        watch.settle(about["rows"], mine.reasons)
        watch.publish("finished")
        return summary

    def _planned(self, committed: Ledger, resources: Resources, cores: int) -> Work:
        work = plan(self.storage, self.source, committed.coverage, cores=cores, part=self.part)
        left = work.shards - work.shards_done
        log.say("plan", f"{left} of {work.shards} shards to read; {resources}", shards=work.shards, shards_left=left)
        return work

    def _stream(
        self, work: Work, resources: Resources, run: str, lease: Lease, session: Session, coordinator: CoordinatorHandle
    ) -> Supervisor:
        """Runs the pipeline to its end. Raises what stopped it early, once what was in flight is committed."""
        pipeline = Pipeline(self.config, self.source.layout, self.specs, resources, coordinator)
        sink = ParquetSink(self._writer(run), resources.rows_per_file, coordinator)
        metrics = Metrics(self.path, work.shards - work.shards_done, resources)
        nodes = NodeWatcher(self.config.compute, resources, session)
        watch = Supervisor(run, self.part.suffix, work, self.config, self.storage, lease, coordinator, metrics, nodes)
        try:
            with watch.watching():
                pipeline.write(pipeline.build(work.tasks), sink, run)
        except (RayError, KeyboardInterrupt) as exc:
            if isinstance(exc, RayError):
                watch.stopped = watch.stopped or cause(exc)
            elif watch.stopped is None:
                raise
        if watch.stopped:
            watch.publish("stopped")
            watch.stopped.about |= watch.now("stopped").counts
            raise watch.stopped
        return watch

    def _writer(self, run: str) -> Writer:
        results = [field for spec in self.specs for field in spec.fields]
        keep = self.config.output.keep_images
        annotated = schema.annotated(self.source.layout.schema, results, images=keep != "none")
        key = self.source.layout.key or ""
        about = {"run": run, "job": self.fingerprint, "version": __version__, schema.KEY: key}
        return Writer(self.storage, self.path, annotated, self.specs, about, keep)

    def _settled(self, committed: Ledger, run: str) -> Ledger:
        """What is committed now, less what orphans of a dead run wrote after this one was planned."""
        now = ledger.read(self.storage, self.path)
        return self._drop(now.late(committed, run), now)

    def _drop(self, objects: list[Object], now: Ledger) -> Ledger:
        for obj in objects:
            log.say("output", f"{obj.entry.path}: its rows are elsewhere too; removed")
            self.storage.delete(obj.entry.path)
        return now.without(objects)

    def _drop_orphaned_images(self, now: Ledger) -> None:
        """Those whose rows object was never written, or dropped; when nobody is writing any more."""
        form = self.config.output.keep_images
        if form == "none":
            return
        promised = {images.name_of(os.path.basename(obj.entry.path), form) for obj in now.objects if obj.folder == ROWS}
        for entry in self.storage.tree(join_path(self.path, IMAGES)):
            if os.path.basename(entry.path) not in promised:
                self.storage.delete(entry.path)

    def finalise(self, now: Ledger, run: dict[str, Any]) -> Summary:
        """Prove that every row is in exactly one object, and say so; or say what is missing."""
        self._prove(now)
        summary = summarise(output=self.path, ledger=now, specs=self.specs, fingerprint=self.fingerprint, run=run)
        for folder in set(FOLDERS) - {obj.folder for obj in now.objects}:
            self._writer("none").write_empty(folder, "part-none.parquet")
        if others := ledger.missing(now.coverage, [shard.name for shard in self.source.shards]):
            log.say("output", f"this part is complete; {len(others)} shards of other parts are not")
        elif run or not self.storage.exists(join_path(self.path, SUCCESS)):
            self._reveal(now, summary)
        return summary

    def _prove(self, now: Ledger) -> None:
        """From the footers. Raises OutputError."""
        if problems := ledger.missing(now.coverage, self.shards):
            some = "; ".join(f"{name}: {why}" for name, why in list(problems.items())[:3])
            raise OutputError(
                f"{len(problems)} shards are not complete: {some}", "run the same command again: it goes on here"
            )
        counted = sum(obj.count for obj in now.objects)
        covered = sum(part.count for part in now.coverage.values())
        if counted != covered:
            raise OutputError(
                f"{self.path}: {counted - covered} rows are in more than one object: two runs wrote here at once",
                "run the same command again: it drops what is there twice",
            )

    def _reveal(self, now: Ledger, summary: Summary) -> None:
        """What a finished output has beside its rows; _SUCCESS last."""
        for spec in (spec for spec in self.specs if spec.labels):
            names = json.dumps(spec.labels, ensure_ascii=False, indent=0).encode()
            name = LABEL_NAMES if schema.LABELS in spec.columns else ZERO_SHOT_LABEL_NAMES
            self.storage.put(join_path(self.path, name), names)
        self._drop_orphaned_images(now)
        self.storage.put(join_path(self.path, SUMMARY), summary.to_json().encode())
        with suppress(StorageError):  # housekeeping, and a right that not every job has
            self.storage.abort_uploads(self.path)
        self.storage.put(join_path(self.path, SUCCESS), b"")


def _announced(summary: Summary) -> Summary:
    """The last event of a run that ends well."""
    log.say(
        "finished", str(summary).splitlines()[0], output=summary.output, shards=summary.shards,
        rows=summary.rows + summary.rejects, rejects=summary.rejects, reasons=summary.reasons,
        damaged_shards=summary.damaged_shards, seconds=summary.run.get("seconds", 0.0),
    )  # fmt: skip
    return summary
