"""Every column name and every Arrow schema, in and out. No other file spells a column.

raw        source -> decode     shard, row, key, <kept>, _since, _end, _total, _stage, _reason, _message, _text, _image
decoded    decode -> annotate   the same without _image, plus one uint8 tensor column per canvas
annotated  annotate -> sink     as raw, without _text and _image, plus <results>
rows       rows/*.parquet       shard, row, key, <kept>, <results>
rejects    rejects/*.parquet    shard, row, key, stage, reason, message

A row with a `_reason` is a reject from the stage that gave it one. A row answers for the unselected rows right before
it, from `_since` on: they are accounted for when it is. A row with `_end` is not an input row: it answers for those
before `row`, and with a `_total` closes its shard, which has so many rows; its `_message` says how it is damaged.
Columns that start with an underscore travel between stages only, so no source column can collide with them.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from jobs.errors import Reason, Reject, Stage

SCHEMA_VERSION = 1

SHARD, ROW, KEY = "shard", "row", "key"
SINCE, END, TOTAL = "_since", "_end", "_total"
STAGE, REASON, MESSAGE, TEXT, IMAGE = "_stage", "_reason", "_message", "_text", "_image"
REJECT_STAGE, REJECT_REASON, REJECT_MESSAGE = "stage", "reason", "message"  # the same, in rejects/
LABELS, LABEL_PROBS = "labels", "label_probs"
ZERO_SHOT_LABELS, ZERO_SHOT_PROBS = "zero_shot_labels", "zero_shot_probs"
IMAGE_EMBEDDING, TEXT_EMBEDDING, SIMILARITY = "image_embedding", "text_embedding", "similarity"
IMAGE_POOLED, TEXT_POOLED = "image_pooled", "text_pooled"

RESERVED = frozenset(
    {SHARD, ROW, KEY, LABELS, LABEL_PROBS, IMAGE_EMBEDDING, TEXT_EMBEDDING, SIMILARITY}
    | {ZERO_SHOT_LABELS, ZERO_SHOT_PROBS, IMAGE_POOLED, TEXT_POOLED}
)

# What each column of an output holds, as the documentation shows it.
MEANING = {
    SHARD: "the input file, as its path below the source's folder",
    ROW: "index of the row in its shard as stored, from 0; with `shard`, the row's address",
    KEY: "the source's own id: COYO's `id`, a tar's key; null where the source has none",
    LABELS: "class ids, most probable first; `_labels.json` has the names",
    LABEL_PROBS: "probabilities of `labels`, in the same order",
    ZERO_SHOT_LABELS: "indexes into `_zero_shot_labels.json`, the recipe's own labels; most probable first",
    ZERO_SHOT_PROBS: "probabilities of `zero_shot_labels`, in the same order",
    IMAGE_EMBEDDING: "embedding of the image, L2-normalised",
    TEXT_EMBEDDING: "embedding of the text, L2-normalised; null if the text is null or empty",
    SIMILARITY: "cosine of both embeddings, -1 to 1; null if `text_embedding` is",
    IMAGE_POOLED: "output of the image tower before projection and normalisation",
    TEXT_POOLED: "output of the text tower before projection and normalisation; null if `text_embedding` is",
    REJECT_STAGE: "the stage that failed: source, fetch, decode or annotate",
    REJECT_REASON: "the reason, from a closed list",
    REJECT_MESSAGE: "details, for people to read",
}

# Names a source may use, best first.
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "img")
IMAGE_SUFFIXES = (*IMAGE_NAMES, "jp2", "heic", "heif", "jxl", "svg", "ico", "ppm", "jfif")
JSON_SUFFIX = "json"
TEXT_NAMES = ("text", "caption", "txt")
KEY_NAMES = ("key", "__key__", "id")
URL_NAMES = ("url", "URL", "image_url")
PHASH_NAMES = ("imagehash", "image_phash")
ERROR_NAMES = ("error_message",)  # img2dataset says there why a row has no image

PROVENANCE = "coyo_jobs.provenance"  # footer keys of every object
MODELS = "coyo_jobs.models"
LABEL_NAMES = "coyo_jobs.label_names"
ZERO_SHOT_LABEL_NAMES = "coyo_jobs.zero_shot_label_names"
EXPORT = "coyo_jobs.export"  # in files made from a finished output: which export they belong to, and which rows
CLASS_NAMES = {
    LABELS: LABEL_NAMES,
    ZERO_SHOT_LABELS: ZERO_SHOT_LABEL_NAMES,
}  # columns of class ids, and the footer key that holds their names

_ADDRESS = (pa.field(SHARD, pa.string(), nullable=False), pa.field(ROW, pa.int32(), nullable=False))
_FATE = (
    pa.field(SINCE, pa.int32(), nullable=False),
    pa.field(END, pa.bool_(), nullable=False),
    pa.field(TOTAL, pa.int32()),
    pa.field(STAGE, pa.string()),
    pa.field(REASON, pa.string()),
    pa.field(MESSAGE, pa.string()),
)


FATE = (SHARD, ROW, *(field.name for field in _FATE))  # whose row it is, and what became of it


def raw(key: pa.DataType, kept: Iterable[pa.Field]) -> pa.Schema:
    """What a source yields; `key` is the type of the source's own id."""
    payload = [pa.field(TEXT, pa.string()), pa.field(IMAGE, pa.binary())]
    return pa.schema([*_ADDRESS, pa.field(KEY, key), *kept, *_FATE, *payload])


def reject(stage: Stage, reason: Reason, message: str) -> dict[str, str]:
    """The columns that make a row a reject."""
    return {STAGE: stage.value, REASON: reason.value, MESSAGE: message}


def mark_rejects(table: pa.Table, stage: Stage, rejects: Mapping[int, Reject]) -> pa.Table:
    """Make rejects of these rows, by their index in the table; the other rows keep what they have."""
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
    """uint8 [height, width, 3], RGB; zeros where the row is a reject."""
    return pa.field(name, pa.fixed_shape_tensor(pa.uint8(), (height, width, 3)))


def decoded(raw: pa.Schema, canvases: Iterable[pa.Field], *, images: bool = False) -> pa.Schema:
    """With `images` the encoded bytes travel on."""
    return pa.schema([field for field in raw if images or field.name != IMAGE] + list(canvases))


def annotated(raw: pa.Schema, results: Iterable[pa.Field], *, images: bool = False) -> pa.Schema:
    return pa.schema([field for field in raw if images or field.name not in (TEXT, IMAGE)] + list(results))


def rows(annotated: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in annotated if not field.name.startswith("_")])


def images(annotated: pa.Schema) -> pa.Schema:
    """Of the columns between stages, those that an images object holds."""
    fate = {field.name for field in _FATE}
    return pa.schema(
        [field for field in list(annotated)[: annotated.get_field_index(IMAGE) + 1] if field.name not in fate]
    )


_PUBLIC = {TEXT: TEXT_NAMES, IMAGE: IMAGE_NAMES}


def images_names(images: pa.Schema) -> list[str]:
    """What these columns are called in an images object: as a source calls them, where no kept column is called so."""
    public = {own: next(n for n in names if n not in images.names) for own, names in _PUBLIC.items()}
    return [public.get(name, name) for name in images.names]


def rejects(annotated: pa.Schema) -> pa.Schema:
    why = [pa.field(name, pa.string(), nullable=False) for name in (REJECT_STAGE, REJECT_REASON, REJECT_MESSAGE)]
    return pa.schema([*_ADDRESS, annotated.field(KEY), *why])


def labels() -> list[pa.Field]:
    """COYO-Labeled-300M's form: class ids and their probabilities, sorted descending."""
    return [pa.field(LABELS, pa.list_(pa.int32())), pa.field(LABEL_PROBS, pa.list_(pa.float32()))]


def zero_shot() -> list[pa.Field]:
    """Indexes into the recipe's labels and their probabilities, sorted descending."""
    return [pa.field(ZERO_SHOT_LABELS, pa.list_(pa.int32())), pa.field(ZERO_SHOT_PROBS, pa.list_(pa.float32()))]


def embedding(name: str, dim: int, dtype: pa.DataType) -> pa.Field:
    """A vector of `dim` numbers: L2-normalised, or as a tower pooled it."""
    return pa.field(name, pa.list_(dtype, dim))


def similarity() -> pa.Field:
    """Cosine of a row's image and text embeddings, -1 to 1."""
    return pa.field(SIMILARITY, pa.float32())


IMAGE_PATH, CAPTION = "image_path", "caption"  # clip-retrieval's metadata

# COYO-Labeled-300M's columns in order, their types, and what they may be called in rows/.
COYO_LABELED = (
    (pa.field("id", pa.int64()), ("id", KEY)),
    (pa.field("url", pa.string()), URL_NAMES),
    (pa.field("imagehash", pa.string()), PHASH_NAMES),
    *((field, (field.name,)) for field in labels()),
    (pa.field("width", pa.int32()), ("width",)),
    (pa.field("height", pa.int32()), ("height",)),
)


def plain(of: pa.DataType) -> pa.DataType:
    """The same without Arrow's other ways to store it, dictionaries and views: few of its functions take them."""
    if pa.types.is_dictionary(of):
        return plain(of.value_type)
    if pa.types.is_string_view(of):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(of) else of


def kind(of: pa.DataType) -> str:
    """`integer` or `text` in any width, else the type's own name: values of one kind can be compared and converted."""
    if pa.types.is_dictionary(of):
        return kind(of.value_type)
    if pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of):
        return "text"
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        return f"list of {kind(of.value_type)}"  # Arrow's own names differ by who made the list
    return "integer" if pa.types.is_integer(of) else str(of)
