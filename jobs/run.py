"""run(config) -> Summary: plan, run the pipeline, finalise. Every run of a job goes through here."""

import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ray.exceptions import RayError

from cluster import imports, local
from cluster.local import Session
from cluster.nodes import total_resources
from jobs import PACKAGES, __version__, log, schema
from jobs.config import JobConfig
from jobs.driver.coordinator import CoordinatorHandle
from jobs.driver.lease import Lease
from jobs.driver.profile import describe_run
from jobs.driver.prometheus import Metrics
from jobs.driver.remote import NodeWatcher, reserve_resources, root_cause
from jobs.driver.resources import Resources
from jobs.driver.supervisor import QueuedRun, Supervisor
from jobs.driver.tasks import Partition, Work, plan_tasks
from jobs.errors import ClusterError, ShardsSetAside, StorageError
from jobs.models import Spec
from jobs.models.describe import describe_models
from jobs.output import identity, ledger
from jobs.output.finalise import (
    check_complete,
    drop_late_objects,
    has_gaps_or_duplicates,
    repair,
    reveal,
    with_committed_schema,
)
from jobs.output.layout import FOLDERS, SUCCESS
from jobs.output.ledger import Ledger
from jobs.output.summary import Summary, summarise
from jobs.output.writer import Writer
from jobs.pipeline import Pipeline
from jobs.pipeline.write import ParquetSink
from jobs.sources import Source
from jobs.sources.discover import discover
from jobs.storage import Storage
from jobs.storage.paths import join_path

_MAX_REPEATS = 3  # times that a run computes missing or duplicated rows again by itself


def run(config: JobConfig, part: Partition | None = None) -> Summary:
    """Compute labels and embeddings for every row of the source, exactly once. Continue where an earlier run stopped.

    With a part, process only its shards. On return every input row (of the part) is in rows/ or rejects/. The run that
    completes the last part writes `_SUCCESS`. Raises JobError.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    log.set_run(run_id)
    part, storage = part or Partition(), Storage(config.storage)
    source = discover(storage, config.source)
    log.say("source", source.description, shards=len(source.shards), format=source.layout.format)
    identity.check_output(storage, config)
    committed = ledger.read(storage, config.output.path)
    source = with_committed_schema(storage, source, committed)
    shards = [shard.name for shard in source.shards if part.contains(shard)]
    if not has_gaps_or_duplicates(committed, shards):
        job = _Job.claim(config, storage, source, part)
        log.say("output", f"already complete: {config.output.path}")
        return _log_finished(job.finalise(committed, {}))
    try:
        with local.session(PACKAGES) as session:  # Ray starts in the background, while the models are described
            return _log_finished(_Job.claim(config, storage, source, part).run(session, run_id))
    except imports.ShadowedError as exc:
        raise ClusterError(exc.message, exc.hint) from exc
    except ConnectionError as exc:
        raise ClusterError(
            f"Ray cannot be reached: {exc}", "check RAY_ADDRESS, or unset it to run on this machine"
        ) from exc


@dataclass(frozen=True)
class _Job:
    """A job whose source and models are known and whose output is claimed."""

    config: JobConfig
    storage: Storage
    source: Source
    specs: tuple[Spec, ...]
    fingerprint: str
    part: Partition

    @classmethod
    def claim(cls, config: JobConfig, storage: Storage, source: Source, part: Partition) -> "_Job":
        """Describe the models and claim the output.

        Raises CheckpointError for an unusable model, and OutputError if the output belongs to another job.
        """
        specs = describe_models(config, storage)
        pinned = identity.pin_config(config, source.pinned_config, specs)
        identity.claim_output(storage, pinned)
        return cls(pinned, storage, source, specs, identity.fingerprint(pinned), part)

    def run(self, session: Session, run_id: str) -> Summary:
        """Run under the lease: no other run writes these shards."""
        lease = Lease(self.storage, self.path, run_id, self.part)
        lease.acquire()
        try:
            if self.storage.exists(join_path(self.path, SUCCESS)):  # shards were added after it was written
                self.storage.delete(join_path(self.path, SUCCESS))
            committed = repair(self.storage, self.path)
            if not has_gaps_or_duplicates(committed, self.shards):
                return self.finalise(committed, {})
            return self.execute(run_id, lease, committed, session)
        finally:
            with suppress(StorageError):  # the lease expires anyway; this error must not hide that of the run
                lease.release()

    @property
    def path(self) -> str:
        return self.config.output.path

    @property
    def shards(self) -> list[str]:
        """Names of the part's shards."""
        return [shard.name for shard in self.source.shards if self.part.contains(shard)]

    def execute(
        self, run: str, lease: Lease, committed: Ledger, session: Session, repeats: int = _MAX_REPEATS
    ) -> Summary:
        """Wait for resources, stream the missing rows, and finalise. Repeat if a dead process left gaps."""
        queued = QueuedRun(run, self.part.suffix, self.storage, self.path, lease)
        with ExitStack() as placing:
            with queued.publish_if_stopped():
                resources, coordinator = placing.enter_context(
                    reserve_resources(run, self.config, session, queued.report)
                )
            began, cpu = time.monotonic(), time.process_time()
            cluster = total_resources(session.nodes())
            work = self._plan(committed, resources, int(cluster.get("CPU", 1)))
            if resources.device == "cpu" and self.config.compute.device == "auto" and not session.own:
                log.say("note", "Ray has no GPU, so the models run on CPU; compute.device: cuda waits for GPUs")
            supervisor = self._stream(work, resources, run, lease, session, coordinator)
        now = drop_late_objects(self.storage, self.path, committed, run)
        if supervisor.seen.set_aside and ledger.missing(now.coverage, self.shards):
            supervisor.publish("incomplete")
            reasons = "; ".join(supervisor.seen.set_aside.values())
            raise ShardsSetAside(f"shards were set aside: {reasons}", "run the same command to try them again")
        if repeats and has_gaps_or_duplicates(now, self.shards):
            # When Ray repeats a read task whose process died, it skips the blocks that it has, by their number. Fetched
            # rows come in the order of the answers, so the same number may be a block of other rows.
            log.say("note", "a process died while fetching; its missing or duplicated rows are computed again")
            return self.execute(f"{run}-again", lease, repair(self.storage, self.path), session, repeats - 1)
        mine = Ledger(tuple(obj for obj in now.objects if obj.run == run))
        description = describe_run(
            run=run,
            rows=sum(obj.num_rows for obj in mine.objects),
            seconds=time.monotonic() - began,
            driver_seconds=time.process_time() - cpu,
            seen=supervisor.seen,
            resources=resources,
            cluster=cluster,
        )
        summary = self.finalise(now, description)
        supervisor.set_committed(description["rows"], mine.reasons)
        supervisor.publish("finished")
        return summary

    def _plan(self, committed: Ledger, resources: Resources, cores: int) -> Work:
        work = plan_tasks(self.storage, self.source, committed.coverage, cores=cores, part=self.part)
        left = work.shards - work.shards_done
        log.say("plan", f"{left} of {work.shards} shards to read; {resources}", shards=work.shards, shards_left=left)
        return work

    def _stream(
        self, work: Work, resources: Resources, run: str, lease: Lease, session: Session, coordinator: CoordinatorHandle
    ) -> Supervisor:
        """Run the pipeline to its end. If it is stopped early, commit what is in flight, then raise the cause."""
        pipeline = Pipeline(self.config, self.source.layout, self.specs, resources, coordinator)
        sink = ParquetSink(self._writer(run), resources.rows_per_file, coordinator)
        metrics = Metrics(self.path, work.shards - work.shards_done, resources)
        nodes = NodeWatcher(self.config.compute, resources, session)
        supervisor = Supervisor(
            run, self.part.suffix, work, self.config, self.storage, lease, coordinator, metrics, nodes
        )
        try:
            with supervisor.watching():
                pipeline.write(pipeline.build(work.tasks), sink, run)
        except (RayError, KeyboardInterrupt) as exc:
            if isinstance(exc, RayError):
                supervisor.stopped = supervisor.stopped or root_cause(exc)
            elif supervisor.stopped is None:
                raise
        if supervisor.stopped:
            supervisor.publish("stopped")
            supervisor.stopped.log_fields |= supervisor.now("stopped").counts
            raise supervisor.stopped
        return supervisor

    def _writer(self, run: str) -> Writer:
        results = [field for spec in self.specs for field in spec.fields]
        keep = self.config.output.keep_images
        annotated = schema.annotated(self.source.layout.schema, results, images=keep != "none")
        key = self.source.layout.key or ""
        about = {"run": run, "job": self.fingerprint, "version": __version__, schema.KEY: key}
        return Writer(self.storage, self.path, annotated, self.specs, about, keep)

    def finalise(self, now: Ledger, run: dict[str, Any]) -> Summary:
        """Check that every row is in exactly one object, and write the summary.

        Write `_SUCCESS` once all parts are complete. Raises JobError if rows are missing.
        """
        check_complete(now, self.shards, self.path)
        summary = summarise(output=self.path, ledger=now, specs=self.specs, fingerprint=self.fingerprint, run=run)
        for folder in set(FOLDERS) - {obj.folder for obj in now.objects}:
            self._writer("none").write_empty(folder, "part-none.parquet")
        if others := ledger.missing(now.coverage, [shard.name for shard in self.source.shards]):
            log.say("output", f"this part is complete; {len(others)} shards of other parts are incomplete")
        elif run or not self.storage.exists(join_path(self.path, SUCCESS)):
            reveal(self.storage, self.config.output, self.specs, now, summary)
        return summary


def _log_finished(summary: Summary) -> Summary:
    """Log the last event of a successful run."""
    log.say(
        "finished", str(summary).splitlines()[0], output=summary.output, shards=summary.shards,
        rows=summary.rows + summary.rejects, rejects=summary.rejects, reasons=summary.reasons,
        damaged_shards=summary.damaged_shards, seconds=summary.run.get("seconds", 0.0),
    )  # fmt: skip
    return summary
