"""coyo-jobs: labels and embeddings for image-text corpora, every row exactly once."""

import sys
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"
PACKAGES = ("jobs", "cluster")


def _import_cluster() -> None:
    """Import `cluster` from beside this package: another project's may come first on sys.path. Raises ImportError."""
    beside = str(Path(__file__).parents[1])
    sys.path.insert(0, beside)
    found = import_module("cluster")
    sys.path.remove(beside)
    where = found.__file__ or next(iter(found.__path__))
    if not Path(where).parent.samefile(Path(beside, "cluster")):
        raise ImportError(f"{where} is imported already, and coyo-jobs has its own `cluster`: rename that one")


_import_cluster()
