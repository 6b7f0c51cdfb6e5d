"""Load the zero-shot labels of a recipe, inline or from a file. No torch here: `submit` loads them too."""

from jobs.config import ZeroShotConfig
from jobs.config.models import distinct_labels
from jobs.errors import ConfigError, StorageError
from jobs.storage import Storage


def load_labels(config: ZeroShotConfig, storage: Storage) -> tuple[str, ...]:
    """Return the labels by id. Raises ConfigError for a file with wrong content, StorageError if it cannot be read."""
    if not isinstance(config.labels, str):
        return config.labels
    where, hint = f"models.align.zero_shot.labels: {config.labels}", "write one label per line, each once, in UTF-8"
    try:
        return distinct_labels(storage.read(config.labels).decode("utf-8-sig").removesuffix("\n").split("\n"))
    except StorageError as exc:
        raise StorageError(f"models.align.zero_shot.labels: {exc.message}", exc.hint) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}: not UTF-8 text ({exc.reason})", hint) from exc
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}", hint) from exc
