"""A job of one node that shows what servers would find there: the engine's own version and options, wrappers, GPUs,
weights, and whether what is written here can be read there.

One step runs a short script of plain commands in the container, as a server's step would be started; each command's
output comes back between two marks. :func:`ask_schema` does so for nothing but the schema of the installed package.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ratematch.engines import find_engine
from ratematch.errors import RunError
from ratematch.plan.cluster import Cluster
from ratematch.plan.finding import Finding
from ratematch.plan.secret import MASK
from ratematch.slurm import nodecheck
from ratematch.slurm.queue import ask_slurm
from ratematch.slurm.sbatch import extra_options, refusal, site_options, spell
from ratematch.slurm.site import why_unmountable
from ratematch.slurm.srun import RUNTIME, container_options

MINUTES = 15
"""Time limit of the job: importing the engine from a cold container takes minutes."""

WAIT_S = 3600.0
"""How long it may wait in the queue."""


@dataclass(frozen=True)
class Answer:
    """What one command printed, stdout and stderr, and its exit code."""

    text: str
    code: int


FACTS = "machine"
"""Name of the command that says what the machine is (:mod:`ratematch.slurm.nodecheck`)."""

SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")

SCHEMA = "schema"
"""Name of the command that asks the installed package for its schema."""

Within = Literal["job", "step", "here"]
"""A job of its own, a step of the allocation that this process runs in, or a process of this machine."""


def probe_node(cluster: Cluster, engine: str, folder: Path, wait_s: float = WAIT_S) -> list[Finding]:
    """Send the job and check its answers. ``folder``: one that jobs must see, where results go."""
    return examine_node(cluster, engine, folder, wait_s)[0]


def examine_node(
    cluster: Cluster, engine: str, folder: Path, wait_s: float = WAIT_S
) -> tuple[list[Finding], Answer | None]:
    """The same, and what was answered to :attr:`ratematch.engines.Engine.schema_command`; ``None`` where there is no
    such command, or where nothing came back."""
    if why := why_unmountable(folder, cluster):
        return [Finding("results folder", False, why)], None
    written = folder.absolute() / f".ratematch-probe-{uuid.uuid4().hex[:8]}"
    try:
        written.write_text("seen\n", encoding="utf-8")
    except OSError as error:
        return [Finding("results folder", False, f"{folder} cannot be written ({error.strerror})")], None
    try:
        argv = probe_argv(cluster, str(folder.absolute()), _commands(cluster, engine, written), written.name)
        # By environment: arguments are in every list of processes.
        environment = {**os.environ, **cluster.secrets.values(os.environ)}
        output, errors = run_job(argv, written.name, wait_s, environment)
    except subprocess.TimeoutExpired:
        return [Finding("probe", False, f"the job did not end within {wait_s:.0f} s")], None
    except OSError as error:
        return [Finding("probe", False, f"srun cannot be started ({error.strerror})")], None
    finally:
        written.unlink(missing_ok=True)
    answers = read_answers(output)
    if not answers:
        return [Finding("probe", False, _why_nothing(engine, errors))], None
    schema = answers.pop(SCHEMA, None)
    return list(judge_answers(cluster, engine, answers)), schema


def ask_schema(cluster: Cluster, engine: str, folder: Path, within: Within, wait_s: float = WAIT_S) -> str:
    """What the installed package answers to :attr:`ratematch.engines.Engine.schema_command`.

    Raises:
        RunError: no answer came back; one line.
    """
    command = schema_command(cluster, engine)
    if command is None:
        raise RunError(f"{engine} has no schema to ask for")
    name = f"ratematch-schema-{uuid.uuid4().hex[:8]}"
    argv = probe_argv(cluster, str(folder.absolute()), {SCHEMA: command}, name, within)
    try:
        environment = {**os.environ, **cluster.secrets.values(os.environ)}
        output, errors = run_job(argv, name, wait_s, environment, cancels=within == "job")
    except subprocess.TimeoutExpired:
        raise RunError(f"no answer within {wait_s:.0f} s") from None
    except OSError as error:
        raise RunError(f"{argv[0]} cannot be started ({error.strerror})") from None
    answers = read_answers(output)
    if SCHEMA not in answers:
        raise RunError(_why_nothing(engine, errors))
    return answers[SCHEMA].text


def schema_command(cluster: Cluster, engine: str) -> tuple[str, ...] | None:
    """What asks the installed package; ``None`` where there is none to ask: emulated servers are of no package."""
    known = find_engine(engine)
    return None if cluster.emulated else known.schema_command(known.command(cluster))


def _why_nothing(engine: str, errors: str) -> str:
    """Why a job said nothing, in one line; where a container did not start, with the first line of pyxis that says
    why."""
    known, words = find_engine(engine).diagnose([errors]), refusal(errors or "srun said nothing")
    said = first_of_pyxis(errors) or str(words)
    return f"{known}: {said}" if known else said


PYXIS_FRAME = (
    "printing ",
    "container start failed",
    "couldn't start",
    "child ",
    "importing docker image",
    "creating ",
)
"""Beginnings of what pyxis says around the line that has the cause."""


def first_of_pyxis(errors: str) -> str | None:
    """The line of pyxis, or of enroot through it, that says why a container did not start; ``None`` without one.

    ``slurmstepd-node1: error: pyxis: ...`` in Slurm 22.05, ``[2026-11-30T07:03:59.599] error: pyxis: ...`` in 25.11.
    """
    lines = [line.partition("pyxis: ")[2].strip() for line in errors.splitlines() if "pyxis: " in line]
    lines = [line for line in lines if line]
    telling = [line for line in lines if "[ERROR]" in line or not line.lower().startswith(PYXIS_FRAME)]
    errors_of_enroot = [line for line in telling if "[ERROR]" in line]
    chosen = next(iter(errors_of_enroot or telling or lines), None)
    return f"pyxis: {chosen[:300]}" if chosen else None


def run_job(
    argv: Sequence[str], name: str, wait_s: float, environment: Mapping[str, str], *, cancels: bool = True
) -> tuple[str, str]:
    """stdout and stderr of the job; when we stop waiting, for whatever reason, it is cancelled."""
    with subprocess.Popen(
        argv,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as step:
        try:
            return step.communicate(timeout=wait_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(step.pid, signal.SIGTERM)
            if cancels:
                ask_slurm(["scancel", f"--name={name}"])
            raise


def probe_argv(
    cluster: Cluster, folder: str, commands: Mapping[str, tuple[str, ...]], name: str, within: Within = "job"
) -> list[str]:
    """The srun of the job, with the options of any job and any step of this profile; without it on this machine."""
    slurm = cluster.slurm
    inside = [f"{key}={value}" for key, value in cluster.environment.items() if value != MASK]
    if within == "here":
        return ["env", f"--chdir={folder}", *inside, "bash", "-c", script(commands)]
    options = {**site_options(cluster), "nodes": 1, "ntasks": 1, "time": MINUTES, "job-name": name}
    outside = [word for word in inside if word.startswith(RUNTIME)]
    # A step of ours takes what the allocation has, beside whatever else runs there.
    begin = (
        ("srun", *spell({**options, **extra_options(slurm)}))
        if within == "job"
        else ("srun", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1", "--cpu-bind=none", f"--job-name={name}")
    )
    return [
        *(("env", *outside) if outside and cluster.container else ()),
        *(*begin, f"--chdir={folder}"),
        *((f"--mpi={slurm.mpi}",) if slurm.mpi else ()),
        *container_options(cluster, folder),
        *slurm.srun,
        *("env", *inside, "bash", "-c", script(commands)),
    ]


def script(commands: Mapping[str, tuple[str, ...]]) -> str:
    """Each command between two marks, whatever becomes of it."""
    return "\n".join(
        f'echo {shlex.quote(f"=== {name}")}; {shlex.join(argv)} 2>&1; s=$?; echo; echo "=== end $s"'
        for name, argv in commands.items()
    )


def read_answers(text: str) -> dict[str, Answer]:
    """What each command of a :func:`script` printed, by its name."""
    blocks = re.findall(r"^=== (?!end )(.+?)\n(.*?)\n?^=== end (\d+)$", text, re.MULTILINE | re.DOTALL)
    return {name: Answer(output, int(code)) for name, output, code in blocks}


def _commands(cluster: Cluster, engine: str, written: Path) -> dict[str, tuple[str, ...]]:
    known = find_engine(engine)
    find = ("bash", "-c", 'command -v "$0"')
    commands: dict[str, tuple[str, ...]] = {
        "node": ("hostname",),
        "results folder": ("cat", str(written)),
        **known.probe_commands(known.command(cluster)),
    }
    commands[FACTS] = ("python3", "-c", Path(nodecheck.__file__).read_text("utf-8"), "facts")
    if (asking := schema_command(cluster, engine)) is not None:
        commands[SCHEMA] = asking
    if launcher := known.launcher(cluster):
        commands["launcher"] = (*find, launcher[0])
    if cluster.numactl:
        commands["numactl"] = ("numactl", *cluster.numactl, "true")
    if not cluster.emulated:
        commands["GPUs"] = ("nvidia-smi", "-L")
    for model, path in cluster.model_paths.items():
        if "/" in path:
            commands[f"weights of {model}"] = ("ls", "-d", path)
    return commands


def judge_answers(cluster: Cluster, engine: str, answers: Mapping[str, Answer]) -> Iterator[Finding]:
    """What the answers of a node mean for ``cluster``."""
    known = find_engine(engine)
    theirs = known.probe_commands(known.command(cluster))
    node = answers.get("node")
    yield Finding("node", node is not None and node.code == 0, node.text.strip() if node else "it said nothing")
    yield from known.judge_probe({name: answers[name].text for name in theirs if name in answers})
    for name, answer in answers.items():
        if name in theirs or name == "node":
            continue
        if name == FACTS:
            yield from _judge_facts(answer)
            continue
        output = " ".join(answer.text.split())
        if name == "GPUs":
            count = len(re.findall(r"^GPU \d+:", answer.text, re.MULTILINE))
            right = count == cluster.gpus_per_node
            yield Finding(name, right, f"{count} of {cluster.gpus_per_node}" + ("" if right else f": {output[:120]}"))
        elif answer.code:
            yield Finding(name, False, f"{output[-160:] or 'not found'} (exit code {answer.code})")
        else:
            yield Finding(name, True, output[-160:] or "works")


def _judge_facts(answer: Answer) -> Iterator[Finding]:
    """What bindings follow from: cores and NUMA nodes, GPUs' NUMA nodes, network cards, clock and memory."""
    try:
        facts = msgspec.json.decode(answer.text.strip().splitlines()[-1], type=nodecheck.Facts)
    except (msgspec.MsgspecError, IndexError):
        yield Finding("CPUs", True, "not looked at: no python3 there ran the check")
        return
    numa = "; ".join(f"NUMA {name}: {cpus or 'no CPUs'}" for name, cpus in facts.numa.items()) or "NUMA not shown"
    cgroup = "cgroup not shown" if facts.cgroup is None else f"cgroup v{facts.cgroup}"
    yield Finding("CPUs", True, f"{facts.cores} for this job; {numa}; {cgroup}")
    if facts.gpu_numa:
        nodes = ", ".join(f"GPU {gpu}: {node if node >= 0 else '?'}" for gpu, node in enumerate(facts.gpu_numa))
        yield Finding("NUMA node of GPUs", True, nodes)
    else:
        yield Finding("NUMA node of GPUs", True, "not looked at: nvidia-smi shows no GPU there")
    yield Finding("network", True, ", ".join(facts.nics[:12]) or "no card is shown there")
    huge = ", ".join(f"{count} of {size}" for size, count in facts.hugepages.items() if count) or "none reserved"
    clock = facts.clocksource or "not shown"
    memory = f"hugepages {huge}, transparent: {facts.transparent_hugepages or 'not shown'}"
    slow = facts.clocksource in SLOW_CLOCKS
    found = f"clock source {clock}{' is slow to read, and loads are timed by it' if slow else ''}; {memory}"
    yield Finding("clock and memory", not slow, found)
