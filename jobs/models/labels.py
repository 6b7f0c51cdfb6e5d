"""The labels of a recipe's own, which may be in a file. Without torch: a submission reads them too."""

from jobs.config import ZeroShotConfig
from jobs.config.models import distinct
from jobs.errors import ConfigError, StorageError
from jobs.storage import Storage


def listed(config: ZeroShotConfig, storage: Storage) -> tuple[str, ...]:
    """The labels by id, out of the recipe or the file that it names. Raises ConfigError or StorageError."""
    if not isinstance(config.labels, str):
        return config.labels
    where, hint = f"models.align.zero_shot.labels: {config.labels}", "one label a line, each of them once, in UTF-8"
    try:
        return distinct(storage.read(config.labels).decode("utf-8-sig").removesuffix("\n").split("\n"))
    except StorageError as exc:
        raise StorageError(f"models.align.zero_shot.labels: {exc.message}", exc.hint) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}: not a text in UTF-8 ({exc.reason})", hint) from exc
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}", hint) from exc
