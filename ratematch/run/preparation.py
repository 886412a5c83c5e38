"""What nodes get before servers start there, once a job: the image unpacked, and the weights on their own disk.

Each is a step with one task on every node, which stays until its input ends. Both begin at once, and what they made
is gone when they are: pyxis removes the container of a step that ends, and the copy of the weights goes with the
process that holds it (:mod:`ratematch.run.staging`). A driver that is killed closes their input too, and Slurm ends
the steps of a job that it ends, so nothing has to be removed by anybody else.

Where servers cannot use the unpacked image (a pyxis before 0.14, or one that mounts images without unpacking them),
each unpacks it for itself, as with ``unpack: launch``; weights that cannot be copied are an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ratematch.errors import DiskFull, NotReady, ServerDied, UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.placement import nodes_on
from ratematch.run import guard, staging
from ratematch.run.launches import Launch
from ratematch.run.machines import Allocation
from ratematch.run.placing import READY_FLOOR_S, ready_s
from ratematch.run.stopping import Interrupted
from ratematch.slurm.site import weights_on_host
from ratematch.slurm.srun import READY, Step, host_step, shared_container, trial_step, unpack_step
from ratematch.store import masking
from ratematch.store.outcome import Outcome
from ratematch.store.progress import Starting, Waiting

UNPACKED_VARIABLE = "RATEMATCH_UNPACKED"
"""In the environment of a driver: the step of its job that has unpacked the image on its nodes already."""

POLL_S = 0.2
END_S = 600.0
"""How long the end waits for pyxis to remove an image of many files. It is never cut short: Slurm takes a step that
it has cancelled and that does not end (``UnkillableStepTimeout``) for a fault of the node, and drains that."""
TRIAL_S = 120.0

Show = Callable[[Sequence[Waiting]], None]


def unpacking(cluster: Cluster, nodes: Sequence[str]) -> Step | None:
    """The step that unpacks the image for all servers of a job; ``None`` where each does it for itself."""
    return unpack_step(cluster, nodes) if cluster.unpacks_once else None


def copying(cluster: Cluster, experiment: Experiment, nodes: Sequence[str]) -> Step | None:
    """The step that copies the weights to the nodes' own disks; ``None`` where servers read them where they are.
    ``nodes``: empty = this machine.

    Raises:
        UserError: no mount of the container shows where the weights are on the host.
    """
    stage = cluster.stage_weights
    if stage is None:
        return None
    source = weights_on_host(experiment.model_path, cluster)
    if why := _why_no_folder(experiment.model_path, source):
        raise UserError(why)
    limit_b = int((stage.limit_gb or 0) * 1e9)
    keep = "keep" if stage.keep else "remove"
    copy = stage.copy_of(experiment.model_path)
    argv = (sys.executable, "-I", staging.__file__, str(source), copy, str(limit_b), keep)
    return host_step(nodes, "weights", argv) if nodes else Step(argv)


def why_unstaged(path: str, cluster: Cluster) -> str | None:
    """Why the weights at ``path`` cannot be staged, as far as this machine sees; ``None`` when they may."""
    stage = cluster.stage_weights
    if stage is None:
        return None
    source = weights_on_host(path, cluster)
    if (why := _why_no_folder(path, source)) or source is None:
        return why
    if cluster.check_paths and stage.limit_gb and source.is_dir():
        size_b = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
        if size_b > stage.limit_gb * 1e9:
            limit = f"stage_weights.limit_gb is {stage.limit_gb:g}"
            return f"the weights in {source} are {staging.gb(size_b)}, and {limit}"
    return None


def _why_no_folder(path: str, source: Path | None) -> str | None:
    if not path.startswith("/"):
        return f"stage_weights copies a folder, and the model is given by name ({path}): give its path in model_paths"
    if source is None:
        return f"stage_weights: {path} is below no mount of the container, so it is nowhere to be copied from"
    return None


class KeptStep:
    """A step that gets ``count`` nodes ready and stays; its lines are in ``log``."""

    def __init__(self, step: Step, count: int, log: Path):
        self.log, self._count, self._began = log, count, time.monotonic()
        environment = guard.unmarked(os.environ)
        environment.pop(masking.VARIABLE, None)
        environment.update(step.env)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                step.argv,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C goes to the driver.
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def lines(self, word: str) -> list[str]:
        """What tasks said after ``word`` and their node, in the order of the lines, ``<node> <text>``."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line.removeprefix(f"{word} ") for line in text.splitlines() if line.startswith(f"{word} ")]

    @property
    def ready_nodes(self) -> int:
        return len(self.lines(READY))

    @property
    def is_ready(self) -> bool:
        return self.ready_nodes >= self._count and not self.has_ended

    @property
    def name(self) -> str:
        """Of a step that has unpacked an image: what others call it, ``<job id>.<step id>``."""
        return self.lines(READY)[0].split()[-1]

    def describe(self, name: str, what: str) -> Waiting:
        """How far it is."""
        latest: dict[str, tuple[int, int]] = {}
        for line in self.lines("progress"):
            if match := re.fullmatch(r"(\S+) (\d+) (\d+)", line):
                latest[match[1]] = int(match[2]), int(match[3])
        far = f", {staging.gb(min(latest.values())[0])} of {staging.gb(min(latest.values())[1])}" if latest else ""
        waits = self.lines("waiting")
        why = f"{what} on {self.ready_nodes} of {self._count} {'nodes' if self._count > 1 else 'node'}{far}"
        return Waiting(name, why, self.seconds, waits[-1] if waits and not latest else "")

    def tail(self, lines: int = 5) -> str:
        with contextlib.suppress(OSError):
            return "; ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""

    def release(self) -> None:
        """Let it end, and what it keeps with it."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self, seconds: float = END_S) -> None:
        """The same, and wait until it has, so long at most."""
        self.release()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


class Preparation:
    """Of the nodes of one job, from their first launch to the end of the last.

    ``container``: srun's option for servers in what is unpacked, empty = each unpacks its own. ``note``: what a
    person should know of how it went. ``last``: the launch that ended last, and how.
    """

    def __init__(self) -> None:
        self._nodes: tuple[str, ...] = ()
        self._image: KeptStep | None = None
        self._weights: KeptStep | None = None
        self.container = self.note = ""
        self.last: tuple[Launch, Outcome] | None = None

    @property
    def _count(self) -> int:
        return len(self._nodes) or 1

    def prepare(
        self, launch: Launch, cluster: Cluster, where: Allocation | None, stop: threading.Event
    ) -> Allocation | None:
        """Give the nodes what servers of ``launch`` need there; ``where`` as servers are started in it then.

        Raises:
            UserError: a node refuses the weights. ServerDied, NotReady: they are not there. Interrupted: ``stop``.
        """
        began = time.monotonic()
        self._nodes = where.nodes[: nodes_on(launch.experiment.deployment, cluster)] if where else ()

        def show(waiting: Sequence[Waiting]) -> None:
            launch.folder.write_progress(Starting(time.time(), tuple(waiting)))

        begun = self._begin(launch.experiment, cluster, launch.path)
        limit_s = ready_s(launch.experiment, cluster)
        self._wait_for(self._weights, stop, show, limit_s)
        if self._image is not None and not self.container:
            try:
                self._wait_for(self._image, stop, show, limit_s)
                self.container = try_container(self._image, cluster, self._nodes)
            except (ServerDied, NotReady) as error:
                self.note = f"each server unpacks the image for itself, for none can use a copy of all ({error})"
                self._image.release()
        if begun:
            launch.preparing_s = time.monotonic() - began
        return replace(where, container=self.container) if where else None

    def _begin(self, experiment: Experiment, cluster: Cluster, folder: Path) -> bool:
        """Start what is needed and does not run already, if anything; its logs go to ``folder``."""
        before = self._image, self._weights
        if self._nodes and (given := os.environ.get(UNPACKED_VARIABLE)):
            self.container = shared_container(given)
        elif self._nodes and (self._image is None or self._image.has_ended) and not self.note:
            self.container = ""
            step = unpacking(cluster, self._nodes)
            self._image = KeptStep(step, self._count, folder / "unpack.log") if step else None
        copy = copying(cluster, experiment, self._nodes)
        if copy and (self._weights is None or self._weights.has_ended):
            self._weights = KeptStep(copy, self._count, folder / "weights.log")
        return (self._image, self._weights) != before

    def _wait_for(self, kept: KeptStep | None, stop: threading.Event, show: Show, limit_s: float) -> None:
        while kept is not None and not kept.is_ready:
            both = (("image", "unpacked", self._image), ("weights", "copied", self._weights))
            show([step.describe(name, what) for name, what, step in both if step and not step.is_ready])
            if refused := kept.lines("refused"):
                raise UserError(f"the weights cannot be staged: {refused[0].replace(' ', ': ', 1)}")
            if kept.has_ended:
                raise ServerDied(f"the step ended before its nodes were ready: {kept.tail()} [log: {kept.log}]")
            if kept.seconds > limit_s:
                where = f"{kept.ready_nodes} of {self._count} nodes are"
                raise NotReady(f"{where} ready after {kept.seconds:.0f} s: {kept.tail()} [log: {kept.log}]")
            if stop.wait(POLL_S):
                raise Interrupted("stopped while nodes got the image and the weights")

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """At the end all goes that the nodes were given; the last launch answers for the time that takes."""
        try:
            yield
        finally:
            began = time.time()
            kept = [step for step in (self._image, self._weights) if step is not None]
            for step in kept:
                step.release()
            for step in kept:
                step.end()
            if kept and self.last is not None:
                launch, outcome = self.last
                with contextlib.suppress(DiskFull):
                    launch.folder.write_outcome(launch.path, outcome.longer(time.time() - began))


@contextlib.contextmanager
def image_for_all(
    cluster: Cluster | None, nodes: Sequence[str], folder: Path, stop: threading.Event
) -> Iterator[dict[str, str]]:
    """The image on the nodes of a pack, for all its experiments. Yields what their drivers have in their environment:
    nothing where each sees to that itself. Its log goes to ``folder``. ``cluster``: ``None`` where none is left."""
    step = unpacking(cluster, nodes) if cluster else None
    if cluster is None or step is None:
        yield {}
        return
    image = KeptStep(step, len(nodes), folder / "unpack.log")
    try:
        while not (image.is_ready or image.has_ended or image.seconds > READY_FLOOR_S or stop.wait(POLL_S)):
            pass
        environment = {}
        if image.is_ready:
            with contextlib.suppress(ServerDied):
                try_container(image, cluster, nodes)
                environment = {UNPACKED_VARIABLE: image.name}
        if not environment:
            image.release()
        yield environment
    finally:
        image.end()


def try_container(image: KeptStep, cluster: Cluster, nodes: Sequence[str]) -> str:
    """srun's option for what ``image`` has unpacked on ``nodes``.

    Raises:
        ServerDied: no server could use it.
    """
    option = shared_container(image.name)
    step = trial_step(cluster, nodes).within(option)
    environment = {**guard.unmarked(os.environ), **dict(step.env)}
    try:
        done = subprocess.run(
            step.argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerDied(f"no step started in it within {TRIAL_S:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "pyxis" in line] or done.stderr.splitlines()[-1:]
        raise ServerDied("; ".join(lines[:1]) or f"exit code {done.returncode}")
    return option
