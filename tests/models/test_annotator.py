"""The annotate stage: one row out for every row in, every model's columns, and NaN is a reject with a culprit."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import schema
from jobs.errors import ClusterError, Reason, Stage
from jobs.models import Spec
from jobs.models.annotator import Annotator, ExecutionOptions, Stopwatch
from tests.support.checkpoints import copy, noise, rewrite, spec, tensors

RAW = schema.raw(pa.string(), [pa.field("url", pa.string())])
TEXTS = ["a red circle", "a blue star above a green ring", None, " ", "a red circle", "zzz", "a pink heart", "ring"]


def annotator(*specs: Spec, precision: str = "auto") -> Annotator:
    return Annotator(specs, ExecutionOptions("cpu", precision))


def decoded(specs: list[Spec], rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as the decode stage yields them; the canvases are noise, the same for both models."""
    blank = {schema.SHARD: "a.parquet", schema.END: False, "url": "u"}
    numbered = [{**blank, schema.ROW: i, schema.KEY: f"k{i}", **row} for i, row in enumerate(rows)]
    table = pa.Table.from_pylist(numbered, schema.decoded(RAW, []))
    for canvas in {each.canvas.name: each.canvas for each in specs}.values():
        stack = noise(max(1, len(rows))).numpy()
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(stack)[: len(rows)]
        table = table.append_column(canvas.field, column)
    return table


def by_row(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: int(row[schema.ROW]))


def both() -> list[Spec]:
    return [spec("vit"), spec("align", dtype="float16")]


def test_every_row_comes_out_once_with_every_models_columns() -> None:
    specs = both()
    done = annotator(*specs)(decoded(specs, [{schema.TEXT: text} for text in TEXTS]))
    assert done.schema.equals(schema.annotated(RAW, [field for each in specs for field in each.fields]))
    rows = by_row(done)
    assert [row[schema.KEY] for row in rows] == [f"k{i}" for i in range(8)]
    assert all(len(row[schema.LABELS]) == 5 and len(row[schema.IMAGE_EMBEDDING]) == 128 for row in rows)
    assert [row[schema.TEXT_EMBEDDING] is None for row in rows] == [text is None or text == " " for text in TEXTS]
    assert {row[schema.REASON] for row in rows} == {None}


def test_rejects_and_ends_pass_with_nulls() -> None:
    specs = both()
    reject = {schema.STAGE: "decode", schema.REASON: "truncated", schema.MESSAGE: "cut"}
    rows = by_row(annotator(*specs)(decoded(specs, [{}, reject, {schema.END: True, schema.MESSAGE: "m"}, {}])))
    results = [field.name for each in specs for field in each.fields]
    assert all(rows[i][name] is None for i in (1, 2) for name in results)
    assert [row[schema.REASON] for row in rows] == [None, "truncated", None, None]
    assert [row[schema.MESSAGE] for row in rows] == [None, "cut", "m", None]
    assert [row[schema.LABELS] is None for row in rows] == [False, True, True, False]


@pytest.mark.parametrize("rows", [[], [{schema.END: True}]])
def test_a_block_without_good_rows_has_the_same_schema(rows: list[dict[str, Any]]) -> None:
    specs = both()
    done = annotator(*specs)(decoded(specs, rows))
    assert done.num_rows == len(rows)
    assert done.schema.equals(schema.annotated(RAW, [field for each in specs for field in each.fields]))


def test_results_do_not_depend_on_the_batch() -> None:
    """Batches are cut anew when a run is resumed; a row must not change with its neighbours."""
    specs = both()
    model, table = annotator(*specs), decoded(specs, [{schema.TEXT: text} for text in TEXTS])
    whole = by_row(model(table))
    alone = [row for i in range(table.num_rows) for row in by_row(model(table.slice(i, 1)))]
    for together, single in zip(whole, alone, strict=True):
        assert together[schema.LABELS] == single[schema.LABELS]
        for name in (schema.LABEL_PROBS, schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING, schema.SIMILARITY):
            assert (together[name] is None) == (single[name] is None)
            if together[name] is not None:
                assert np.allclose(together[name], single[name], atol=5e-4)


def test_a_column_in_pieces_and_a_filtered_table_give_the_same() -> None:
    specs = both()
    model, table = annotator(*specs), decoded(specs, [{schema.TEXT: text} for text in TEXTS])
    pieces = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    assert by_row(model(pieces)) == by_row(model(table))


def test_one_model_alone_gives_its_columns_only() -> None:
    only = spec("vit", top_k=2)
    done = annotator(only)(decoded([only], [{}]))
    assert [name for name in done.column_names if not name.startswith("_")][-2:] == [schema.LABELS, schema.LABEL_PROBS]
    assert schema.IMAGE_EMBEDDING not in done.column_names


def test_nan_weights_make_every_row_a_reject_that_names_the_model(tmp_path: Path) -> None:
    broken = rewrite(copy("vit", tmp_path / "vit"), classifier__bias=torch.full((64,), float("nan")))
    specs = [spec("vit", broken), spec("align")]
    rows = by_row(annotator(*specs)(decoded(specs, [{schema.TEXT: "a red star"}, {}])))
    assert [row[schema.REASON] for row in rows] == [Reason.NON_FINITE] * 2
    assert [row[schema.STAGE] for row in rows] == [Stage.ANNOTATE] * 2
    assert {row[schema.MESSAGE] for row in rows} == {"NaN or infinity from vit"}


def test_one_bad_row_costs_only_itself(tmp_path: Path) -> None:
    folder = copy("align", tmp_path / "align")
    words = tensors(folder)["text_model.embeddings.word_embeddings.weight"].clone()
    words[(folder / "vocab.txt").read_text().split().index("heart")] = float("inf")
    rewrite(folder, text_model__embeddings__word_embeddings__weight=words)
    specs = [spec("vit"), spec("align", folder)]
    rows = by_row(annotator(*specs)(decoded(specs, [{schema.TEXT: text} for text in TEXTS])))
    bad = [i for i, row in enumerate(rows) if row[schema.REASON]]
    assert bad == [TEXTS.index("a pink heart")]
    assert rows[bad[0]][schema.MESSAGE] == "NaN or infinity from align"


def test_both_culprits_are_named(tmp_path: Path) -> None:
    vit = rewrite(copy("vit", tmp_path / "vit"), classifier__bias=torch.full((64,), float("inf")))
    norm = {"vision_model__embeddings__batchnorm__bias": torch.full((32,), float("nan"))}
    specs = [spec("vit", vit), spec("align", rewrite(copy("align", tmp_path / "align"), **norm))]
    rows = by_row(annotator(*specs)(decoded(specs, [{}])))
    assert rows[0][schema.MESSAGE] == "NaN or infinity from vit, align"


def test_a_spec_travels_to_another_machine() -> None:
    specs = both()
    assert pickle.loads(pickle.dumps(specs)) == specs


def test_the_annotator_says_what_it_ran_on() -> None:
    assert annotator(spec("vit")).device_summary == "CPU float32"
    assert annotator(spec("vit"), precision="bfloat16").device_summary == "CPU bfloat16"


def test_half_precision_gives_nearly_the_same() -> None:
    specs = both()
    table = decoded(specs, [{schema.TEXT: text} for text in TEXTS])
    exact, half = (by_row(annotator(*specs, precision=name)(table)) for name in ("float32", "bfloat16"))
    for ours, theirs in zip(exact, half, strict=True):
        assert float(np.dot(ours[schema.IMAGE_EMBEDDING], theirs[schema.IMAGE_EMBEDDING])) > 0.999


def test_float32_means_all_of_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN rounds to TF32 unless it is told: full-size embeddings were off by 0.0046 of a cosine on an H200."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    annotator(*both(), precision="float32")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA works")
def test_a_gpu_that_is_missing_is_an_error_and_no_silent_cpu_run() -> None:
    with pytest.raises(ClusterError, match="CUDA"):
        Annotator([spec("vit")], ExecutionOptions("cuda"))


def test_calls_from_several_threads_give_what_each_alone_gives() -> None:
    """Two calls of one actor are under way at once: one on the device, one that prepares."""
    specs = both()
    model = Annotator(specs, ExecutionOptions("cpu", calls=2))
    table = decoded(specs, [{schema.TEXT: f"{text} {i}"} for i in range(4) for text in TEXTS])
    slices = [table.slice(i, 3 + i % 5) for i in range(24)]
    alone = [by_row(model(part)) for part in slices]
    with ThreadPoolExecutor(4) as pool:
        together = [by_row(done) for done in pool.map(model, slices)]
    assert together == alone


def test_a_call_says_how_long_each_phase_took() -> None:
    specs, stopwatch = both(), Stopwatch()
    annotator(*specs)(decoded(specs, [{schema.TEXT: "a ring"}]), stopwatch)
    assert list(stopwatch.seconds) == ["prepare", "queue", "forward", "output"]
    assert stopwatch.seconds["forward"] > 0
