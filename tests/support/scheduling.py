"""How tests are handed to workers: a worker gets the tests of one file that stand together in the order of the run.

So they share the file's fixtures, and its quick tests still run before those of other files that take minutes.
(pytest-xdist's own groups do nothing with pytest 9.2: it renames a test to name its group.)
"""

from itertools import groupby

from xdist.scheduler import LoadScopeScheduling


class ByNeighbours(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist is not typed
    """Groups of neighbours of one file, in their order."""

    def schedule(self) -> None:
        ids = next(iter(self.registered_collections.values()))
        groups = groupby(ids, key=lambda id: id.partition("::")[0])
        self._group = {id: f"{file}#{number}" for number, (file, found) in enumerate(groups) for id in found}
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._group[nodeid]
