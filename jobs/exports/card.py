"""The data set card of an export: what the rows are, which models made them, and which input rows have none."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from jobs import schema

_KEPT, _RESULT = "as the source has it", "a result of the models"
_MEANING = {
    schema.SHARD: "the input file",
    schema.ROW: "the row's index in it, as stored",
    schema.KEY: "the source's own id",
    schema.LABELS: "classes, most probable first",
    schema.LABEL_PROBS: "their probabilities",
    schema.IMAGE_EMBEDDING: "of the image, L2-normalised",
    schema.TEXT_EMBEDDING: "of the text, L2-normalised; null where the text is null or empty",
    schema.ZERO_SHOT_LABELS: "places in the recipe's list of labels, most probable first",
    schema.ZERO_SHOT_PROBS: "their probabilities",
    schema.SIMILARITY: "cosine of the two embeddings; null where the text is",
}


def card(
    columns: pa.Schema, kept: Collection[str], features: Sequence[Mapping[str, Any]], said: Mapping[str, Any]
) -> str:
    """Markdown with the header that `datasets` reads; `kept` columns are the source's, `said` is `_export.json`."""
    size = said["bytes"]
    header = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": list(features),
            "splits": [{"name": "train", "num_bytes": size["unpacked"], "num_examples": said["rows"]}],
            "download_size": size["stored"],
            "dataset_size": size["unpacked"],
        },
    }
    meanings = _MEANING | dict.fromkeys(kept, _KEPT)
    described = [(field.name, f"`{field.type}`", meanings.get(field.name, _RESULT)) for field in columns]
    opening = _opening(said["rows"], said["rejects"])
    sections = [opening, _columns(described), _models(said["models"]), _rejects(said["rejects"])]
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n\n" + "\n\n".join(sections) + "\n"


def _opening(rows: int, rejects: Mapping[str, int]) -> str:
    total = rows + sum(rejects.values())
    return (
        "# Labels and embeddings of an image-text corpus\n\n"
        f"{rows:,} rows, one for each of {total:,} input rows that has a result. Made with coyo-jobs.\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("FOLDER OR REPOSITORY", split="train")\n```'
    )


def _columns(described: Sequence[tuple[str, str, str]]) -> str:
    return "## Columns\n\n" + _table(("column", "type", "meaning"), described)


def _models(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Which weights, at which revision, and what is known of them."""
    rows = []
    for kind, about in models.items():
        rest = ", ".join(f"{name} {value}" for name, value in about.items() if name not in ("weights", "revision"))
        rows.append((kind, about["weights"], about["revision"], rest))
    return "## Models\n\n" + _table(("model", "weights", "revision", "about"), rows)


def _rejects(rejects: Mapping[str, int]) -> str:
    if not rejects:
        return "## Rejects\n\nEvery input row has a result."
    said = "Input rows that are not here, because they have no result:\n\n"
    return "## Rejects\n\n" + said + _table(("why", "rows"), [(name, f"{n:,}") for name, n in rejects.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
