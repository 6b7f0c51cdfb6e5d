"""The data set card of an export: its columns, the models that computed them, and the rejected input rows."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from jobs import schema

_KEPT, _RESULT = "copied from the source", "a result of the models"
_MEANING = {
    schema.SHARD: "the input file",
    schema.ROW: "the row's index in it, as stored",
    schema.KEY: "the row's id in the source",
    schema.LABELS: "class ids, most probable first",
    schema.LABEL_PROBS: "the probabilities of `labels`",
    schema.IMAGE_EMBEDDING: "embedding of the image, L2-normalised",
    schema.TEXT_EMBEDDING: "embedding of the text, L2-normalised; null if the text is null or empty",
    schema.ZERO_SHOT_LABELS: "indexes into the recipe's list of labels, most probable first",
    schema.ZERO_SHOT_PROBS: "the probabilities of `zero_shot_labels`",
    schema.SIMILARITY: "cosine of the two embeddings; null if the text is null or empty",
}


def card(
    columns: pa.Schema, kept: Collection[str], features: Sequence[Mapping[str, Any]], contents: Mapping[str, Any]
) -> str:
    """Return Markdown with the YAML header that `datasets` reads.

    `kept` are the columns copied from the source, `features` the columns in `datasets`' YAML form, `contents` the
    content of `_export.json`.
    """
    size = contents["bytes"]
    header = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": list(features),
            "splits": [{"name": "train", "num_bytes": size["unpacked"], "num_examples": contents["rows"]}],
            "download_size": size["stored"],
            "dataset_size": size["unpacked"],
        },
    }
    meanings = _MEANING | dict.fromkeys(kept, _KEPT)
    described = [(field.name, f"`{field.type}`", meanings.get(field.name, _RESULT)) for field in columns]
    opening = _opening(contents["rows"], contents["rejects"])
    sections = [opening, _columns(described), _models(contents["models"]), _rejects(contents["rejects"])]
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
    rows = []
    for kind, metadata in models.items():
        rest = ", ".join(f"{name} {value}" for name, value in metadata.items() if name not in ("weights", "revision"))
        rows.append((kind, metadata["weights"], metadata["revision"], rest))
    return "## Models\n\n" + _table(("model", "weights", "revision", "details"), rows)


def _rejects(rejects: Mapping[str, int]) -> str:
    if not rejects:
        return "## Rejects\n\nEvery input row has a result."
    intro = "Input rows without a result, which this data set does not contain:\n\n"
    rows = [(reason, f"{count:,}") for reason, count in rejects.items()]
    return "## Rejects\n\n" + intro + _table(("reject reason", "rows"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
