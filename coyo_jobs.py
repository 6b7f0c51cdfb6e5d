"""The command, under a name that no other project has.

`jobs` and `cluster` are common names, and a folder on PYTHONPATH, or the current one, may come first on sys.path. This
module imports `jobs` from beside itself, and `jobs` does the same with `cluster`.
"""

import sys
from importlib import import_module
from pathlib import Path

_HERE = str(Path(__file__).parent)


def entry() -> None:
    """Run `coyo-jobs` with the arguments of this process."""
    sys.path.insert(0, _HERE)
    import_module("jobs")
    sys.path.remove(_HERE)
    import_module("jobs.cli").entry()


if __name__ == "__main__":
    entry()
