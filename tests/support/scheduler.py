"""How pytest-xdist gives out tests here: see :mod:`tests.support.lanes`."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.support.lanes import groups_of


class Lanes(LoadScopeScheduling):
    """Groups go out first, the largest before the others; then every other test by itself, in the order collected.

    xdist's own ``loadgroup`` appends the group to the node id, which newer pytests no longer let it do.
    """

    _groups: dict[str, str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._groups is None:
            # Every process has collected the same.
            self._groups = groups_of(next(iter(self.registered_collections.values())))
        return self._groups.get(nodeid, nodeid)
