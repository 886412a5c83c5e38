"""Every error ratematch raises on purpose, one root per decision the reader can take::

RatematchError                      (exit 1)
├── UserError                       change the input and run again (exit 1)
│   ├── SweepError                  a sweep file; holds *all* problems of the file
│   ├── ClusterError                a cluster profile
│   ├── RecipeError                 another tool's recipe that cannot be imported; all problems of the file
│   ├── TableError                  a table of rates given to `ratematch match`; all problems of it
│   ├── CatalogError                a model, GPU or file name that is not known
│   ├── PlacementError              a deployment that does not fit the cluster
│   └── ResultsError                a results folder that cannot be read
│       └── DamagedFile             one stored file is not what was written; holds the file and why
├── RunError                        an experiment failed; re-run the same command to resume (exit 2)
│   ├── PortInUse                   somebody else listens where a server must
│   ├── ServerDied                  a server process ended; holds its log tail
│   ├── NotReady                    a server did not become ready in time
│   ├── WrongServers                others answer than were started, or these will never do
│   ├── LoadAborted                 a load could not be finished
│   └── DiskFull                    results cannot be written; nothing measured so far is lost
├── Untrustworthy                   numbers exist but none may be shown (exit 3)
└── Regression                      `ratematch compare`: the second sweep is worse than allowed (exit 4)
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class RatematchError(Exception):
    """Root of the tree. ``str(error)`` is what the person sees: one line where possible."""

    exit_code = 1


class UserError(RatematchError):
    """The input is wrong; running again without a change cannot help."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in an input file: where it is, what is wrong, and what would be right."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.fix})" if self.fix else "")


class FileProblems(UserError):
    """All problems found in one file, in the order of their lines."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SweepError(FileProblems):
    """A sweep file says something unknown, impossible or empty."""


class ClusterError(FileProblems):
    """A cluster profile says something unknown or impossible, or is not there."""


class RecipeError(FileProblems):
    """A recipe of another tool contradicts itself, or needs something that a sweep file cannot say."""


class TableError(FileProblems):
    """A table of measured rates that cannot be matched as it is; each problem has its row numbers."""


class CatalogError(UserError):
    """A model, GPU, sweep or cluster name that is not known; the message lists the known ones."""


class PlacementError(UserError):
    """A deployment does not fit the nodes; the message holds the arithmetic."""


class ResultsError(UserError):
    """A results folder is missing, empty or not ours."""


class DamagedFile(ResultsError):
    """One stored file is not what was written there. ``file``: which; ``why``: in words, without its name."""

    def __init__(self, file: Path, why: str):
        self.file, self.why = file, why
        super().__init__(f"{file}: {why}; `ratematch verify` says what to measure again")


class RunError(RatematchError):
    """An experiment failed. What was measured before is kept; the same command resumes."""

    exit_code = 2


class NotInstalled(RunError):
    """A program that servers are started with is not there."""


class PortInUse(RunError):
    """Another process listens on a port that a server of the deployment needs."""


class ServerDied(RunError):
    """A server process ended while it was needed."""


class NotReady(RunError):
    """A server did not answer its readiness probe before the deadline."""


class WrongServers(RunError):
    """The servers that answer are not those that were started, or never will answer as they must."""


class LoadAborted(RunError):
    """A load stopped before its last request; its partial records are kept apart."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a disk, a quota or a file that takes no more."""


class DiskFull(RunError):
    """The results folder cannot take more data."""


class Untrustworthy(RatematchError):
    """There are results, but no valid point is left to show."""

    exit_code = 3


class Regression(RatematchError):
    """A sweep is worse than the one before it by more than was allowed."""

    exit_code = 4
