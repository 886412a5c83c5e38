"""How pytest-xdist gives out tests here: see :mod:`tests.support.lanes`."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.support.lanes import LAST, SLURM_LANES, groups_of


class Lanes(LoadScopeScheduling):
    """Groups go out first, the largest before the others; then every other test by itself, in the order collected; at
    the end what needs a machine that has little else to do.

    One process beyond those of the lanes and one other takes tests from the end, where the quick ones are. They only
    compute, and step back for the others: lanes wait for Slurm most of the time, and would leave processors idle.

    xdist's own ``loadgroup`` appends the group to the node id, which newer pytests no longer let it do.
    """

    _groups: dict[str, str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._groups is None:
            # Every process has collected the same.
            self._groups = groups_of(next(iter(self.registered_collections.values())))
        return self._groups.get(nodeid, nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if LAST in self.workqueue:
            self.workqueue.move_to_end(LAST)
        if len(self.nodes) > SLURM_LANES + 1 and node is self.nodes[-1]:
            from_end = (scope for scope in reversed(self.workqueue) if scope != LAST)
            self.workqueue.move_to_end(next(from_end, LAST), last=False)
        super()._assign_work_unit(node)
