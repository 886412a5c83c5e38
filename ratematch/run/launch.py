"""Runs a LaunchPlan: start, wait until ready, watch, tear down in reverse. Owns every child it starts."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ratematch.errors import DiskFull, NotInstalled, NotReady, RunError, ServerDied
from ratematch.plan.cluster import Cluster
from ratematch.plan.launchplan import MADE_AT_LAUNCH, PRIVATE, LaunchPlan, ProcessSpec
from ratematch.run import guard
from ratematch.run.maskedlog import ServerLog
from ratematch.run.probes import check_port_free, probe_ready
from ratematch.run.startsigns import StartSigns
from ratematch.run.stopping import Interrupted
from ratematch.slurm.srun import HERE, Step, local_step
from ratematch.store import layout, masking
from ratematch.store.files import disk_full_message, is_full, write_text
from ratematch.store.private import forget, make_private, write_private
from ratematch.store.progress import LOADING
from ratematch.store.progress import Waiting as Waiting

STOP_GRACE_S = 10.0
"""How long a server may take to end after SIGTERM before it is killed."""

POLL_S = 0.05
TAIL_LINES = 15


Diagnose = Callable[[Sequence[str]], object]
"""Whole logs, the most relevant first, to a cause (``str()`` of it is shown); ``None`` when it is not known."""


class Machine(Protocol):
    """Where servers run: how a process of the plan is started, and how all that it left behind is ended. ``locks``:
    open files that stand for what the servers use; they are kept open until the last server has ended."""

    @property
    def locks(self) -> Sequence[int]: ...

    def step(self, spec: ProcessSpec) -> Step:
        """What starts ``spec`` where it belongs."""

    def end(self, mark: str, grace_s: float) -> None:
        """End every process that carries ``mark`` (see :mod:`ratematch.run.guard`), on every node."""


class ThisMachine:
    """Every "node" of the plan is this host. ``secrets``: of servers, by variable."""

    def __init__(
        self,
        cluster: Cluster | None = None,
        secrets: Mapping[str, str] | None = None,
        locks: Sequence[int] = (),
    ):
        self.locks = tuple(locks)
        self._cluster = cluster
        self._secrets = secrets or {}

    def step(self, spec: ProcessSpec) -> Step:
        return local_step(spec, self._cluster).revealed(self._secrets)

    def end(self, mark: str, grace_s: float) -> None:
        guard.end(mark, grace_s)


@dataclass
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    output: ServerLog
    started: float

    @property
    def log(self) -> Path:
        return self.output.path


class Servers:
    """The running processes of a plan. Use :func:`running`, which always ends them."""

    def __init__(
        self,
        plan: LaunchPlan,
        folder: Path,
        diagnose: Diagnose,
        machine: Machine,
        signs: StartSigns | None = None,
        secret: str = "",
    ):
        self._mark = uuid.uuid4().hex
        self._secret = secret
        self.plan = plan.started(self._mark[: guard.NAME])
        self._signs = signs or StartSigns()
        self._machine = machine
        self.folder = folder
        self._diagnose = diagnose
        self._children: list[_Child] = []
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def known_by(self) -> str:
        """What is in the environment of every server of this start, and of nothing else."""
        return f"{guard.VARIABLE}={self._mark}"

    def start(self, stop: threading.Event, on_wait: Callable[[Sequence[Waiting]], None]) -> None:
        """Start wave after wave; return when everything answers its probe.

        Raises:
            PortInUse, ServerDied, NotReady: with the end of the log that shows why.
            Interrupted: ``stop`` was set.
        """
        self._start_guard()
        for file in self.plan.files:
            (self.folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / file.path, file.content)
            if file.secret:
                content = file.content.replace(MADE_AT_LAUNCH, self._secret)
                write_private(make_private(self.folder / PRIVATE) / file.path, content)
        for wave in sorted({spec.wave for spec in self.plan.processes}):
            specs = [spec for spec in self.plan.processes if spec.wave == wave]
            for spec in specs:
                check_port_free(spec)
            started = [self._spawn(spec) for spec in specs]
            self._wait_ready(started, stop, on_wait)

    def never_whole(self, why: str, seconds: float) -> NotReady:
        """The error of servers that are up and yet no deployment after ``seconds``."""
        first = next((child for child in self._children if child.spec.role == "orchestrator"), self._children[-1])
        return NotReady(
            f"the servers are up, and the deployment was not ready after {seconds:.0f} s ({why}); raise "
            f"ready_minutes in the cluster profile if it only needs longer{self._cause(first)}"
        )

    def check(self) -> None:
        """Raises ServerDied when any server has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise self._death(child, code)

    def stop(self) -> None:
        """End all, last started first; whatever stays longer than the grace time is killed.

        What the others find each other by ends when they are gone: else each would log that it lost it, and that
        would pass for the cause of what had really ended them.
        """
        last = max((child.spec.wave for child in self._children), default=0)
        beneath = [child for child in self._children if child.spec.role == "service" and child.spec.wave < last]
        _end([child for child in self._children if child not in beneath])
        _end(beneath)
        self._machine.end(self._mark, 0.0)
        forget(self.folder / PRIVATE, [file.path for file in self.plan.files if file.secret])
        for child in self._children:
            child.output.settle()
        self._children.clear()
        if self._guard and self._guard.stdin:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _start_guard(self) -> None:
        # The guard may be killed together with us: whoever starts here next finds the servers by this.
        write_text(self.folder / layout.MARK, self._mark)
        secrets_of_start = str(self.folder.absolute() / PRIVATE)
        self._guard = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, self._mark, str(STOP_GRACE_S), secrets_of_start],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=guard.unmarked(os.environ),
            start_new_session=True,
            pass_fds=self._machine.locks,
        )

    def _spawn(self, spec: ProcessSpec) -> _Child:
        step = self._machine.step(spec).marked(guard.VARIABLE, guard.STEP_VARIABLE, self._mark)
        environment = {key: value for key, value in guard.unmarked(os.environ).items() if key not in step.unset}
        environment.pop(masking.VARIABLE, None)
        environment.update(step.env)
        log = ServerLog(self.folder / spec.log)
        try:
            with log.writing() as output:
                process = subprocess.Popen(
                    step.filled({HERE: str(self.folder.absolute())}),
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=self._machine.locks,
                )
        except FileNotFoundError as error:
            raise NotInstalled(
                f"{spec.name}: there is no command {step.argv[0]!r} here; "
                "set `command` in the cluster profile, or use an emulated cluster"
            ) from error
        child = _Child(spec, process, log, time.monotonic())
        self._children.append(child)
        return child

    def _wait_ready(
        self, started: list[_Child], stop: threading.Event, on_wait: Callable[[Sequence[Waiting]], None]
    ) -> None:
        pending = list(started)
        pause = POLL_S
        while pending:
            self.check()
            waiting = []
            for child in list(pending):
                why = probe_ready(child.spec.ready)
                seconds = time.monotonic() - child.started
                if why is None:
                    pending.remove(child)
                elif seconds > child.spec.ready.deadline_s:
                    raise NotReady(self._not_ready(child, why, seconds))
                elif self._signs.given_up(whole_log(child.log)):
                    raise ServerDied(f"{child.spec.name} gave up starting after {seconds:.0f} s{self._cause(child)}")
                else:
                    waiting.append(Waiting(child.spec.name, why, seconds, _last_line(child.log)))
            if waiting:
                self._refuse_silence(waiting)
                on_wait(waiting)
                if stop.wait(pause):
                    raise Interrupted("stopped while servers were starting")
                # Loading takes minutes on a real cluster; a probe a second is enough there.
                pause = min(1.0, pause * 1.2)

    def _refuse_silence(self, waiting: Sequence[Waiting]) -> None:
        """Raises ServerDied: a server has logged why it fails, and none has written anything since."""
        if known := self._signs.fell_silent([child.log for child in self._children]):
            names = ", ".join(server.name for server in waiting)
            silent = f"no server has logged anything for {self._signs.silent_s:.0f} s since a cause of failure"
            raise ServerDied(f"{names} will not be ready: {silent}: {known} [logs: {self.folder}]")

    def _death(self, child: _Child, code: int) -> RunError:
        """Why a server is gone: the disk, where it has no room left for logs, before all else."""
        message = self._describe_death(child, code)
        if is_full(self.folder):
            return DiskFull(f"{disk_full_message(self.folder)}; {message}")
        return ServerDied(message)

    def _describe_death(self, child: _Child, code: int) -> str:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{child.spec.name} {how} after {time.monotonic() - child.started:.0f} s{self._cause(child)}"

    def _not_ready(self, child: _Child, why: str, seconds: float) -> str:
        still = f"{why}: it is still loading" if why == LOADING else why
        return (
            f"{child.spec.name} was not ready after {seconds:.0f} s ({still}); "
            f"raise ready_minutes in the cluster profile if it only needs longer{self._cause(child)}"
        )

    def _cause(self, child: _Child) -> str:
        child.output.settle()
        tail = log_tail(child.log)
        # A worker's trouble often shows in the log of another one, rarely in the last lines: its own log goes first.
        logs = [child.log, *(other.log for other in self._children if other is not child)]
        known = self._diagnose([whole_log(log) for log in logs])
        cause = f": {known}" if known else ""
        return f"{cause} [log: {child.log}]\n" + "\n".join(f"    {line}" for line in tail.splitlines())


def end_leftovers(launches: Iterable[Path]) -> None:
    """End servers on this machine that an earlier start left behind, because its driver and guard died together, and
    remove the files of its secret.

    ``launches``: folders of the earlier starts of one experiment. Call it while nobody else can be starting servers
    for it.
    """
    for folder in launches:
        try:
            mark = (folder / layout.MARK).read_text("ascii").strip()
        except (OSError, ValueError):
            mark = ""
        if re.fullmatch(r"[0-9a-f]{32}", mark) and (pids := guard.marked(mark)):
            sys.stderr.write(f"{folder}: servers of a start that was killed are alive ({len(pids)}); ending them\n")
            guard.end(mark, STOP_GRACE_S)
        guard.remove(folder / PRIVATE)


@contextlib.contextmanager
def running(
    plan: LaunchPlan,
    folder: Path,
    diagnose: Diagnose,
    stop: threading.Event,
    on_wait: Callable[[Sequence[Waiting]], None],
    machine: Machine | None = None,
    signs: StartSigns | None = None,
) -> Iterator[Servers]:
    """The servers of ``plan``, ready; ended on leaving, whatever happened. Errors as in :meth:`Servers.start`.

    ``signs``: what shows in logs that servers will never be ready.
    """
    secret = secrets.token_hex(32) if any(file.secret for file in plan.files) else ""
    servers = Servers(plan, folder, diagnose, machine or ThisMachine(), signs, secret)
    with masking.masking([secret] if secret else []):
        try:
            servers.start(stop, on_wait)
            yield servers
        finally:
            servers.stop()


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def whole_log(path: Path) -> str:
    """All of a log; empty when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _last_line(path: Path) -> str:
    return log_tail(path, 1)


def _end(children: Sequence[_Child]) -> None:
    for child in reversed(children):
        _signal_group(child.process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_GRACE_S
    for child in reversed(children):
        try:
            child.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
