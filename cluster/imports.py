"""Make Ray's workers import packages from the same folders as this process.

Ray puts the driver's current folder and the folder of its script first on the sys.path of each worker. There, packages
of other projects may have the same names.
"""

import os
import site
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from cluster.ray_internals import worker_folders


class ShadowedError(Exception):
    """Workers would import a package of another project. `hint` is what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


def missing_folders(packages: Iterable[str]) -> list[str]:
    """Return the folders of these packages that are not on a worker's sys.path, such as that of a checkout.

    They never include the folder of installed packages: first on sys.path, it would hide PYTHONPATH and the standard
    library.
    """
    searched = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *site.getsitepackages()]
    return sorted({_folder(name) for name in packages if _found(name, searched) != _folder(name)})


def check_running(packages: Iterable[str]) -> None:
    """Raise ShadowedError if this process called ray.init() in a folder with other packages of these names."""
    for name in packages:
        found = _found(name, worker_folders())
        if found not in (None, _folder(name)):
            raise ShadowedError(
                f"Ray's workers would import `{name}` from {found}, the folder of ray.init()",
                "call ray.init() in another folder, or leave it to run()",
            )


def _folder(name: str) -> str:
    """Return the folder of an imported package."""
    return str(Path(str(sys.modules[name].__file__)).parents[1].resolve())


def _found(name: str, folders: Sequence[str]) -> str | None:
    """Return the first of `folders` with a package or module of this name."""
    spec = PathFinder.find_spec(name, list(folders))
    if spec is None or spec.origin is None:  # not found, or a folder without __init__.py, which hides no package
        return None
    return str(Path(spec.origin).parents[1 if spec.submodule_search_locations else 0].resolve())
