"""Check a finished output: its footers, with `deep` every value, with `sample` some rows against plain transformers.

Nothing here trusts the run that wrote the output: shards are listed again, and sampled rows are computed again in
float32 with transformers' own processors.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import JobConfig
from jobs.errors import Reason, Stage
from jobs.output import identity, images, ledger
from jobs.output.identity import load_job
from jobs.output.layout import FOLDERS, IMAGES, REJECTS, ROWS, SUCCESS
from jobs.output.ledger import Ledger, OutputObject
from jobs.row_ranges import Coverage, coverage_by_shard
from jobs.sources.discover import discover
from jobs.storage import Storage
from jobs.storage.paths import join_path

_NORM_ERROR = 2e-3  # allowed error of a unit vector's norm in float16


@dataclass(frozen=True)
class Check:
    """A claim about the output, checked on `count` items, and the problems found."""

    claim: str
    count: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(output: str, *, deep: bool = False, sample: int = 0) -> list[Check]:
    """Run the checks, cheapest first. Raises OutputError if `output` is not the output of a job."""
    storage, config = load_job(output)
    committed = ledger.read(storage, config.output.path)
    checks = [*_check_footers(storage, config, committed)]
    if deep:
        checks += _check_values(storage, committed)
    if sample:
        from jobs.commands.reference import compare

        checks.append(
            _check("a sample equals plain transformers code in float32", *compare(storage, config, committed, sample))
        )
    return checks


def to_json(checks: Sequence[Check]) -> str:
    """Return the checks as JSON, with `ok` for all of them."""
    return json.dumps(
        {"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]}, indent=1
    )


def show(checks: Sequence[Check]) -> str:
    """Return one line per check, and below it its first five problems."""
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check.ok else 'FAIL'}  {check.count:>9,}  {check.claim}")
        lines += [f"                 {problem}" for problem in check.problems[:5]]
        if len(check.problems) > 5:
            lines.append(f"                 and {len(check.problems) - 5:,} more")
    return "\n".join(lines)


def _check_footers(storage: Storage, config: JobConfig, committed: Ledger) -> Iterable[Check]:
    shards = [shard.name for shard in discover(storage, config.source).shards]
    coverage = committed.coverage
    missing = ledger.missing(coverage, shards)
    yield _check("every row of every shard is committed", len(shards), [f"{n}: {why}" for n, why in missing.items()])
    unknown = sorted(set(coverage) - set(shards))
    yield _check("no rows of shards that are not in the source", len(coverage), unknown)
    yield _check("every row is in one object only", sum(o.num_rows for o in committed.objects), _duplicates(committed))
    wrong = [o.entry.path for o in committed.objects if o.num_rows != sum(part.count for part in o.shards.values())]
    yield _check("each object holds as many rows as its footer says", len(committed.objects), wrong)
    damaged = [f"{name}: {part.damage}" for name, part in coverage.items() if part.damage]
    yield _check("no shard is damaged", len(coverage), damaged)
    expected = identity.fingerprint(config)
    foreign = [o.entry.path for o in committed.objects if o.job != expected]
    yield _check("every object was written by this job", len(committed.objects), foreign)
    folders = [[o for o in committed.objects if o.folder == folder] for folder in FOLDERS]
    schemas = [problem for objects in folders for problem in _different_schemas(storage, objects)]
    yield _check("one schema in each folder", len(committed.objects), schemas)
    if config.output.keep_images != "none":
        images_missing = _missing_images(storage, config, committed)
        yield _check("each object of rows has its images", committed.count_rows(ROWS), images_missing)
    done = storage.exists(join_path(config.output.path, SUCCESS))
    yield _check("_SUCCESS is there", 1, [] if done else ["missing: the job is not finished"])


def _missing_images(storage: Storage, config: JobConfig, committed: Ledger) -> list[str]:
    form, problems = config.output.keep_images, []
    entries = {
        os.path.basename(entry.path): entry for entry in storage.list_files(join_path(config.output.path, IMAGES))
    }
    for obj in (obj for obj in committed.objects if obj.folder == ROWS and obj.num_rows):
        name = images.object_name(os.path.basename(obj.entry.path), form)
        if name not in entries:
            problems.append(f"{name} is missing")
        elif (count := images.count_images(storage.open(entries[name]), form)) != obj.num_rows:
            problems.append(f"{name} has {count} images for {obj.num_rows} rows")
    return problems


def _duplicates(committed: Ledger) -> list[str]:
    ranges: dict[str, list[tuple[int, int, str]]] = {}
    for obj in committed.objects:
        for name, part in obj.shards.items():
            ranges.setdefault(name, []).extend((start, stop, obj.entry.path) for start, stop in part.ranges)
    problems = []
    for name, spans in ranges.items():
        spans.sort()
        for (_, stop, one), (start, _, other) in pairwise(spans):
            if start < stop:
                problems.append(f"{name} rows {start} to {stop - 1}: in {one} and {other}")
    return problems


def _different_schemas(storage: Storage, objects: Sequence[OutputObject]) -> list[str]:
    if not objects:
        return ["a folder has no objects"]
    schemas = [pq.read_schema(storage.open(obj.entry)).remove_metadata() for obj in objects]
    pairs = zip(objects, schemas, strict=True)
    return [f"{obj.entry.path} differs from {objects[0].entry.path}" for obj, s in pairs if s != schemas[0]]


def _check_values(storage: Storage, committed: Ledger) -> list[Check]:
    """Check every value, one object at a time."""
    problems: dict[str, list[str]] = {claim: [] for claim in _CLAIMS}
    for obj in committed.objects:
        table = pq.read_table(storage.open(obj.entry))
        for claim, test in _CLAIMS.items():
            problems[claim] += [f"{obj.entry.path}: {problem}" for problem in test(table, obj)]
    count = sum(obj.num_rows for obj in committed.objects)
    return [_check(claim, count, problems[claim]) for claim in _CLAIMS]


def _addresses(table: pa.Table, obj: OutputObject) -> list[str]:
    shards, rows = table.column(schema.SHARD).to_pylist(), table.column(schema.ROW).to_pylist()
    expected = {name: part for name, part in obj.shards.items() if part.ranges}
    actual = coverage_by_shard(table)
    wrong = [name for name, part in actual.items() if name not in expected or not _agree(part, expected[name])]
    wrong += [name for name, part in expected.items() if part.count and name not in actual]
    twice = len(rows) - len(set(zip(shards, rows, strict=True)))
    return [f"its rows of {name} are not those in its footer" for name in wrong] + (
        [f"{twice} rows twice"] if twice else []
    )


def _agree(actual: Coverage, expected: Coverage) -> bool:
    """Return whether the counts are equal and all actual rows lie in the expected ranges."""
    return actual.count == expected.count and (actual | expected).ranges == expected.ranges


def _vectors(table: pa.Table, _: OutputObject) -> list[str]:
    problems = []
    for name in {schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING} & set(table.column_names):
        if name == schema.IMAGE_EMBEDDING and table.column(name).null_count:
            problems.append(f"{name}: {table.column(name).null_count} nulls")
        array = table.column(name).combine_chunks().drop_null()
        flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        norms = np.linalg.norm(flat.reshape(len(array), array.type.list_size), axis=1)
        if bad := int((~(np.abs(norms - 1) <= _NORM_ERROR)).sum()):  # also counts NaN
            problems.append(f"{name}: {bad} vectors are not finite and of length 1")
    return problems


def _pooled(table: pa.Table, _: OutputObject) -> list[str]:
    problems = []
    pairs = {schema.IMAGE_POOLED: schema.IMAGE_EMBEDDING, schema.TEXT_POOLED: schema.TEXT_EMBEDDING}
    for name, embedding in pairs.items():
        if name in table.column_names:
            array = table.column(name).combine_chunks()
            if not np.isfinite(array.drop_null().flatten().to_numpy(zero_copy_only=False)).all():
                problems.append(f"{name}: NaN or infinity")
            if not array.is_valid().equals(table.column(embedding).combine_chunks().is_valid()):
                problems.append(f"{name}: nulls do not match those of {embedding}")
    return problems


def _labels(table: pa.Table, _: OutputObject) -> list[str]:
    problems = []
    about = json.loads(table.schema.metadata[schema.MODELS.encode()])
    if schema.LABELS in table.column_names:
        problems += _descending(table, schema.LABELS, schema.LABEL_PROBS, about["vit"]["classes"])
    if schema.ZERO_SHOT_LABELS in table.column_names:
        classes = about["align"]["zero_shot"]["classes"]
        problems += _descending(table, schema.ZERO_SHOT_LABELS, schema.ZERO_SHOT_PROBS, classes)
    return problems


def _descending(table: pa.Table, labels: str, probs: str, classes: int) -> list[str]:
    problems = []
    pairs = zip(table.column(labels).to_pylist(), table.column(probs).to_pylist(), strict=True)
    for row, (ids, values) in enumerate(pairs):
        valid = ids is not None and len(ids) == len(values) and all(0 <= i < classes for i in ids)
        if not (valid and all(1 >= a >= b >= 0 for a, b in zip([1.0, *values], values, strict=False))):
            problems.append(f"row {row}: {labels} {ids}, probabilities {values}")
    return problems


def _similarities(table: pa.Table, _: OutputObject) -> list[str]:
    if schema.SIMILARITY not in table.column_names:
        return []
    values = table.column(schema.SIMILARITY).drop_null().to_numpy()
    bad = int((~(np.abs(values) <= 1.001)).sum())
    unpaired = table.column(schema.SIMILARITY).null_count != table.column(schema.TEXT_EMBEDDING).null_count
    return ([f"{bad} outside -1..1"] if bad else []) + (["nulls do not match the text embeddings'"] if unpaired else [])


def _reasons(table: pa.Table, obj: OutputObject) -> list[str]:
    if obj.folder != REJECTS:
        return []
    known: dict[str, set[str]] = {schema.REJECT_REASON: set(Reason), schema.REJECT_STAGE: set(Stage)}
    values = {name: set(table.column(name).to_pylist()) - allowed for name, allowed in known.items()}
    return [f"{name} {sorted(map(str, unknown))} is not known" for name, unknown in values.items() if unknown]


_CLAIMS: dict[str, Callable[[pa.Table, OutputObject], list[str]]] = {
    "the rows in each object are those in its footer": _addresses,
    "embeddings are finite and of length 1": _vectors,
    "pooled outputs are finite, null only without text": _pooled,
    "labels are known classes with descending probabilities": _labels,
    "similarities are cosines, null only without text": _similarities,
    "every reject has a known stage and reason": _reasons,
}


def _check(claim: str, count: int, problems: Sequence[str]) -> Check:
    return Check(claim, count, tuple(problems))
