"""Our jobs in Slurm's queue, with few queries: one ``squeue`` for all of them, now and then.

A cluster's controller serves a thousand people. Queries are batched, spaced out while nothing changes, and spaced out
further when it does not answer. Silence says nothing about a job: ``None`` means "not known now", never "gone".
``sacct`` is asked where there is accounting; nothing depends on it elsewhere.
"""

from __future__ import annotations

import getpass
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

FASTEST_S = 1.0
SLOWEST_S = 30.0
ANSWER_S = 30.0
"""How long one answer may take; busy controllers take seconds."""

OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)

LEAVING = ("COMPLETING", "STAGE_OUT")
"""States of a job that will run nothing any more, and still has its nodes: an epilog, or a container that is removed,
may keep it there for minutes. One that Slurm is about to start again passes through them too."""

Ask = Callable[[Sequence[str]], str | None]
"""Runs a command; its output, or ``None`` when it failed."""


@dataclass(frozen=True)
class QueuedJob:
    """One line of the queue. ``id``: ``123``, or ``123_4`` for a task of an array; ``state`` as Slurm spells it
    (``PENDING``); ``reason``: why it waits; ``nodes``: its own, as a node list, empty while it waits."""

    id: str
    name: str
    state: str
    reason: str
    nodes: str

    @property
    def task(self) -> int | None:
        """Its number in the array; ``None`` for a job of its own."""
        _, _, task = self.id.partition("_")
        return int(task) if task.isdigit() else None

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason and self.reason != "None" else ""
        on = f" on {self.nodes}" if self.nodes else ""
        return f"job {self.id} {self.state.lower()}{why}{on}"


@dataclass(frozen=True)
class Ending:
    """How a job ended: its last ``state`` (``None``: nobody knows any more), exit code as Slurm writes it (``0:9``),
    how often Slurm had started it anew, its nodes, and the seconds that its last start held them."""

    state: str | None
    exit_code: str = ""
    restarts: int = 0
    nodes: str = ""
    seconds: float | None = None
    failed_node: str | None = None


def ask_slurm(argv: Sequence[str]) -> str | None:
    """Output of a Slurm command, ``None`` when it failed or took too long."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass
class Queue:
    """Our jobs in Slurm's queue, as of the last answer.

    ``ask``, ``clock``: stand-ins for Slurm and for the monotonic clock (s) in tests.
    """

    ask: Ask = ask_slurm
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, QueuedJob] | None = None
    _asked_at: float | None = None
    _pause: float = FASTEST_S
    _silent: bool = field(default=False)

    @property
    def silent(self) -> bool:
        """Did Slurm not answer the last question?"""
        return self._silent

    def refresh(self, *, now: bool = False) -> dict[str, QueuedJob] | None:
        """Our jobs by id; ``None`` while Slurm does not answer. Asks it again when the last answer is old enough.

        ``now``: ask in any case, for a decision that must not rest on an old answer.
        """
        if now or self._asked_at is None or self.clock() - self._asked_at >= self._pause:
            self._query()
        return None if self._silent else self._known

    def nudge(self) -> None:
        """Something of ours changed (a job was sent or ended): the next query may come soon."""
        self._pause = FASTEST_S

    def _query(self) -> None:
        # --array: a line for each task of an array, waiting ones too, which Slurm would put together.
        output = self.ask(
            ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%r|%N|%j"]
        )
        self._asked_at = self.clock()
        self._silent = output is None
        before = self._known
        if output is not None:
            self._known = {job.id: job for job in map(_parse_line, output.splitlines()) if job is not None}
        changed = output is not None and self._known != before
        self._pause = FASTEST_S if changed else min(SLOWEST_S, self._pause * 1.5)

    def ending(self, job_id: str, name: str) -> Ending | None:
        """How a job that has left the queue ended; ``None`` while it has not, or Slurm does not answer.

        ``name`` guards against another job with the same id, on a cluster whose numbers began anew.
        """
        shown = self.ask(["scontrol", "show", "job", "--oneliner", job_id])
        if shown is not None:
            fields = read_fields(shown)
            if fields.get("JobName") != name:
                return Ending(None)
            if fields.get("JobState") not in OVER:
                return None
            return Ending(
                fields["JobState"],
                fields.get("ExitCode", ""),
                int(fields.get("Restarts", "0")),
                _node_list(fields.get("NodeList", "")),
                _seconds(fields.get("RunTime", "")),
                _node_list(fields.get("FailedNode", "")) or None,
            )
        if self.refresh(now=True) is None:
            return None
        # Slurm answers and does not know the job any more: the accounting may.
        accounted = self.ask(
            ["sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,ExitCode,NodeList,ElapsedRaw,JobName%200"]
        )
        for line in reversed((accounted or "").splitlines()):
            state, code, nodes, seconds, job_name = line.split("|", 4)
            if job_name == name and state.split()[0] in OVER:
                return Ending(state.split()[0], code, 0, _node_list(nodes), float(seconds or 0))
        return Ending(None)


def _parse_line(line: str) -> QueuedJob | None:
    parts = line.split("|", 4)
    if len(parts) != 5:
        return None
    number, state, reason, nodes, name = parts
    return QueuedJob(number, name, state, "" if reason == "None" else reason, nodes)


def read_fields(text: str) -> dict[str, str]:
    """``Key=value`` words of one line of ``scontrol show ... --oneliner``."""
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", text))


def _node_list(text: str) -> str:
    return "" if text in ("(null)", "None assigned", "None") else text


def _seconds(text: str) -> float | None:
    """Of Slurm's ``[days-]hours:minutes:seconds``."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def failed_nodes(nodes: str) -> dict[str, str]:
    """Those of a node list that are broken, with Slurm's reason; empty when it does not answer."""
    output = ask_slurm(["scontrol", "show", "node", "--oneliner", nodes]) if nodes else None
    failed = {}
    for line in (output or "").splitlines():
        fields = read_fields(line)
        state = fields.get("State", "")
        if any(word in state for word in ("DOWN", "FAIL", "NOT_RESPONDING")) or state.endswith("*"):
            reason = line.partition("Reason=")[2].partition(" [")[0]
            failed[fields["NodeName"]] = f"{state} {reason}".strip()
    return failed
