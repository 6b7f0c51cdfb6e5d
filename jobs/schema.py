"""Every column name and every Arrow schema. No other file spells a column name.

raw        source -> decode     shard, row, key, <kept>, _since, _end, _total, _stage, _reason, _message, _text, _image
decoded    decode -> annotate   the same without _image, plus one uint8 tensor column per canvas
annotated  annotate -> sink     as raw, without _text and _image, plus <results>
rows       rows/*.parquet       shard, row, key, <kept>, <results>
rejects    rejects/*.parquet    shard, row, key, stage, reason, message

A row with a `_reason` is a reject of the stage in `_stage`. A row also accounts for the unselected rows directly before
it, those from `_since` on. A row with `_end` is a marker, not an input row: it accounts for the rows from `_since` to
`row`, exclusive. A marker with a `_total` closes its shard, which has that many rows; its `_message` describes any
damage. Columns that start with an underscore exist only between stages; a source column cannot have such a name.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from jobs.errors import Reason, Reject, Stage

SCHEMA_VERSION = 1

SHARD, ROW, KEY = "shard", "row", "key"
SINCE, END, TOTAL = "_since", "_end", "_total"
STAGE, REASON, MESSAGE, TEXT, IMAGE = "_stage", "_reason", "_message", "_text", "_image"
REJECT_STAGE, REJECT_REASON, REJECT_MESSAGE = "stage", "reason", "message"  # their names in rejects/
LABELS, LABEL_PROBS = "labels", "label_probs"
ZERO_SHOT_LABELS, ZERO_SHOT_PROBS = "zero_shot_labels", "zero_shot_probs"
IMAGE_EMBEDDING, TEXT_EMBEDDING, SIMILARITY = "image_embedding", "text_embedding", "similarity"
IMAGE_POOLED, TEXT_POOLED = "image_pooled", "text_pooled"

RESERVED = frozenset(
    {SHARD, ROW, KEY, LABELS, LABEL_PROBS, IMAGE_EMBEDDING, TEXT_EMBEDDING, SIMILARITY}
    | {ZERO_SHOT_LABELS, ZERO_SHOT_PROBS, IMAGE_POOLED, TEXT_POOLED}
)

# The meaning of each output column, for the reference.
MEANING = {
    SHARD: "path of the input file below the source's folder",
    ROW: "index of the row in its shard, in stored order, from 0; `shard` and `row` are the row's address",
    KEY: "the source's own id: COYO's `id`, a tar's key; null if the source has none",
    LABELS: "class ids, most probable first; `_labels.json` has the names",
    LABEL_PROBS: "probabilities of `labels`, in the same order",
    ZERO_SHOT_LABELS: "indexes into `_zero_shot_labels.json`, the recipe's own labels; most probable first",
    ZERO_SHOT_PROBS: "probabilities of `zero_shot_labels`, in the same order",
    IMAGE_EMBEDDING: "embedding of the image, L2-normalised",
    TEXT_EMBEDDING: "embedding of the text, L2-normalised; null if the text is null or empty",
    SIMILARITY: "cosine similarity of both embeddings, -1 to 1; null if `text_embedding` is",
    IMAGE_POOLED: "output of the image tower before projection and normalisation",
    TEXT_POOLED: "output of the text tower before projection and normalisation; null if `text_embedding` is",
    REJECT_STAGE: "stage that failed: source, fetch, decode or annotate",
    REJECT_REASON: "reason, from a closed list",
    REJECT_MESSAGE: "details in plain text",
}

# Names that a source may use, in order of preference.
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "img")
IMAGE_SUFFIXES = (*IMAGE_NAMES, "jp2", "heic", "heif", "jxl", "svg", "ico", "ppm", "jfif")
JSON_SUFFIX = "json"
TEXT_NAMES = ("text", "caption", "txt")
KEY_NAMES = ("key", "__key__", "id")
URL_NAMES = ("url", "URL", "image_url")
PHASH_NAMES = ("imagehash", "image_phash")
ERROR_NAMES = ("error_message",)  # of img2dataset: why a row has no image

PROVENANCE = "coyo_jobs.provenance"  # footer keys of every object
MODELS = "coyo_jobs.models"
LABEL_NAMES = "coyo_jobs.label_names"
ZERO_SHOT_LABEL_NAMES = "coyo_jobs.zero_shot_label_names"
EXPORT = "coyo_jobs.export"  # in exported files: the export and the rows they belong to
CLASS_NAMES = {  # column of class ids: footer key with the class names
    LABELS: LABEL_NAMES,
    ZERO_SHOT_LABELS: ZERO_SHOT_LABEL_NAMES,
}

_ADDRESS = (pa.field(SHARD, pa.string(), nullable=False), pa.field(ROW, pa.int32(), nullable=False))
_STATUS = (
    pa.field(SINCE, pa.int32(), nullable=False),
    pa.field(END, pa.bool_(), nullable=False),
    pa.field(TOTAL, pa.int32()),
    pa.field(STAGE, pa.string()),
    pa.field(REASON, pa.string()),
    pa.field(MESSAGE, pa.string()),
)

STATUS_COLUMNS = (SHARD, ROW, *(field.name for field in _STATUS))  # a row's address and its outcome


def raw(key: pa.DataType, kept: Iterable[pa.Field]) -> pa.Schema:
    """Schema of a source's tables; `key` is the type of the source's own ids."""
    payload = [pa.field(TEXT, pa.string()), pa.field(IMAGE, pa.binary())]
    return pa.schema([*_ADDRESS, pa.field(KEY, key), *kept, *_STATUS, *payload])


def reject(stage: Stage, reason: Reason, message: str) -> dict[str, str]:
    """Column values that make a row a reject."""
    return {STAGE: stage.value, REASON: reason.value, MESSAGE: message}


def mark_rejects(table: pa.Table, stage: Stage, rejects: Mapping[int, Reject]) -> pa.Table:
    """Turn the rows with these indexes into rejects; the other rows are unchanged."""
    if not rejects:
        return table
    marks = {row: reject(stage, why.reason, why.message) for row, why in rejects.items()}
    for name in (STAGE, REASON, MESSAGE):
        values = table.column(name).to_pylist()
        for row, mark in marks.items():
            values[row] = mark[name]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def canvas(name: str, height: int, width: int) -> pa.Field:
    """Field of uint8 tensors [height, width, 3], RGB; all zeros for rejects."""
    return pa.field(name, pa.fixed_shape_tensor(pa.uint8(), (height, width, 3)))


def decoded(raw: pa.Schema, canvases: Iterable[pa.Field], *, images: bool = False) -> pa.Schema:
    """Schema after decoding; `images` keeps the encoded bytes."""
    return pa.schema([field for field in raw if images or field.name != IMAGE] + list(canvases))


def annotated(raw: pa.Schema, results: Iterable[pa.Field], *, images: bool = False) -> pa.Schema:
    """Schema after annotation; `images` keeps the encoded bytes and the text."""
    return pa.schema([field for field in raw if images or field.name not in (TEXT, IMAGE)] + list(results))


def rows(annotated: pa.Schema) -> pa.Schema:
    """Schema of rows/*.parquet."""
    return pa.schema([field for field in annotated if not field.name.startswith("_")])


def images(annotated: pa.Schema) -> pa.Schema:
    """The columns of a file in images/, under their names between stages."""
    status = {field.name for field in _STATUS}
    return pa.schema(
        [field for field in list(annotated)[: annotated.get_field_index(IMAGE) + 1] if field.name not in status]
    )


_PUBLIC_NAMES = {TEXT: TEXT_NAMES, IMAGE: IMAGE_NAMES}


def images_column_names(images: pa.Schema) -> list[str]:
    """Names of these columns in a file in images/: as a source would name them, unless a kept column has that name."""
    public = {ours: next(n for n in names if n not in images.names) for ours, names in _PUBLIC_NAMES.items()}
    return [public.get(name, name) for name in images.names]


def rejects(annotated: pa.Schema) -> pa.Schema:
    """Schema of rejects/*.parquet."""
    why = [pa.field(name, pa.string(), nullable=False) for name in (REJECT_STAGE, REJECT_REASON, REJECT_MESSAGE)]
    return pa.schema([*_ADDRESS, annotated.field(KEY), *why])


def labels() -> list[pa.Field]:
    """Class ids and probabilities, sorted by descending probability, as in COYO-Labeled-300M."""
    return [pa.field(LABELS, pa.list_(pa.int32())), pa.field(LABEL_PROBS, pa.list_(pa.float32()))]


def zero_shot() -> list[pa.Field]:
    """Indexes into the recipe's labels and probabilities, sorted by descending probability."""
    return [pa.field(ZERO_SHOT_LABELS, pa.list_(pa.int32())), pa.field(ZERO_SHOT_PROBS, pa.list_(pa.float32()))]


def embedding(name: str, dim: int, dtype: pa.DataType) -> pa.Field:
    """A vector of `dim` numbers: an L2-normalised embedding, or a tower's pooled output."""
    return pa.field(name, pa.list_(dtype, dim))


def similarity() -> pa.Field:
    """Cosine similarity of the image and text embeddings, -1 to 1."""
    return pa.field(SIMILARITY, pa.float32())


IMAGE_PATH, CAPTION = "image_path", "caption"  # columns of clip-retrieval's metadata

# COYO-Labeled-300M's columns in order: (field, possible names in rows/).
COYO_LABELED = (
    (pa.field("id", pa.int64()), ("id", KEY)),
    (pa.field("url", pa.string()), URL_NAMES),
    (pa.field("imagehash", pa.string()), PHASH_NAMES),
    *((field, (field.name,)) for field in labels()),
    (pa.field("width", pa.int32()), ("width",)),
    (pa.field("height", pa.int32()), ("height",)),
)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding and views, which few Arrow functions accept."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def kind_of(kind: pa.DataType) -> str:
    """`integer` or `text` for any width, else the type's name. Values of one kind can be compared and converted."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {kind_of(kind.value_type)}"  # Arrow's own name depends on the list's field name
    return "integer" if pa.types.is_integer(kind) else str(kind)
