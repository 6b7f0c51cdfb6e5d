"""Texts in groups of about one length; as many tokens as a model reads."""

from types import SimpleNamespace

import pytest

from jobs.models.texts import TEXTS_PER_CALL, group_by_length, max_length


def test_texts_are_grouped_so_that_little_is_padded() -> None:
    lengths = sorted(min(64, 3 + (i * i) % 61) for i in range(1024))
    groups = group_by_length(lengths)
    assert [i for group in groups for i in range(group.start, group.stop)] == list(range(1024))
    assert all(group.stop - group.start <= TEXTS_PER_CALL for group in groups)
    padded = sum((group.stop - group.start) * lengths[group.stop - 1] for group in groups)
    assert padded < 1.25 * sum(lengths)
    assert group_by_length([]) == []


@pytest.mark.parametrize("lengths", [[5], [5, 64], [3] * 64, [3] * 65, [1, 2, 4, 8, 16, 32, 64]], ids=str)
def test_few_texts_make_few_calls(lengths: list[int]) -> None:
    assert len(group_by_length(lengths)) == (2 if len(lengths) == 65 else 1)


@pytest.mark.parametrize(
    ("kind", "tokenizer", "positions", "most"),
    [("align", 512, 512, 64), ("align", 32, 512, 32), ("clip", 77, 77, 77), ("siglip", 10**30, 64, 64),
     ("chinese_clip", 512, 1024, 512)],
)  # fmt: skip
def test_a_text_is_cut_where_its_model_ends(kind: str, tokenizer: int, positions: int, most: int) -> None:
    """ALIGN was trained with 64 tokens, whatever its config allows; SigLIP 2's tokenizer has no limit of its own."""
    config = SimpleNamespace(model_type=kind, text_config=SimpleNamespace(max_position_embeddings=positions))
    assert max_length(SimpleNamespace(model_max_length=tokenizer), config) == most
