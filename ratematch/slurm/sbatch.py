"""Options of sbatch for a job: resources, limits and the site's own options, from the cluster profile."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence

from ratematch.errors import RunError, UserError
from ratematch.plan.cluster import Cluster, Slurm
from ratematch.plan.printable import UNPRINTABLE, one_line

TIME_STEP_MIN = 5
"""Time limits are rounded up to it."""

Options = dict[str, str | int | bool]
"""sbatch's long options without dashes; ``True`` for those that take no value."""


def batch_options(cluster: Cluster, nodes: int, estimate_min: float, exclude: Sequence[str] = ()) -> Options:
    """Options of a job of ``nodes`` nodes for what takes about ``estimate_min`` minutes.

    ``exclude``: nodes to stay off beside those of the profile.
    """
    slurm = cluster.slurm
    options: Options = {
        **site_options(cluster),
        "nodes": nodes,
        "ntasks-per-node": cluster.gpus_per_node if slurm.tasks == "gpu" else 1,
        "time": _rounded_up(slurm.time.minutes(estimate_min), slurm.time.max_minutes),
        "requeue": True,
    }
    if slurm.segment is not None:
        options["segment"] = segment_size(nodes, slurm.segment)
    if off := dict.fromkeys((*slurm.exclude, *exclude)):
        options["exclude"] = ",".join(off)
    return refuse_broken_lines(options | extra_options(slurm))


def refuse_broken_lines(options: Options) -> Options:
    """``options``, each of which fits one ``#SBATCH`` line.

    Raises:
        UserError: one holds a control character: the rest of it would be run as shell.
    """
    for name, value in options.items():
        if UNPRINTABLE.search(f"{name}{value}"):
            shown = one_line(f"--{name}={value}")
            raise UserError(f"{shown} of the cluster profile holds a control character")
    return options


def _rounded_up(minutes: int, most: float | None) -> int:
    """Jobs that are nearly alike ask for the same, so that they can be one array."""
    rounded = -(-minutes // TIME_STEP_MIN) * TIME_STEP_MIN
    return minutes if most is not None and rounded > most else rounded


def site_options(cluster: Cluster) -> Options:
    """Options of every job, however large: where it is charged, where it runs, whole nodes with all their GPUs."""
    slurm = cluster.slurm
    options: Options = {}
    for name in ("partition", "account", "qos", "reservation"):
        if value := getattr(slurm, name):
            options[name] = value
    match slurm.gpus:
        case "gpus-per-node":
            options["gpus-per-node"] = cluster.gpus_per_node
        case "gres":
            options["gres"] = f"{slurm.gres}:{cluster.gpus_per_node}"
        case "none":
            pass
    if slurm.exclusive:
        # Whole nodes: a neighbour on the same host would be measured with us.
        options["exclusive"] = True
    options["mem"] = 0
    return options


def segment_size(nodes: int, domain: int) -> int:
    """Nodes of a ``--segment``: Slurm wants a divisor of the job's nodes; the largest that fits ``domain`` nodes."""
    return max(size for size in range(1, min(nodes, domain) + 1) if nodes % size == 0)


def extra_options(slurm: Slurm) -> Options:
    """The profile's own sbatch options, typed as on a command line (``--constraint=gb200``)."""
    options: Options = {}
    for word in slurm.sbatch:
        name, given, value = word.removeprefix("--").partition("=")
        options[name] = value if given else True
    return options


def prologue(cluster: Cluster) -> list[str]:
    """Lines of shell that a batch script runs before anything else of ours."""
    return [f". {shlex.quote(cluster.slurm.prologue)}"] if cluster.slurm.prologue else []


def spell(options: Mapping[str, str | int | bool], quote: Callable[[str], str] = str) -> list[str]:
    """The options as words of a command line, values passed through ``quote``."""
    return [f"--{name}" if value is True else f"--{name}={quote(str(value))}" for name, value in options.items()]


def check_submission(options: Options) -> None:
    """Let Slurm check a job of these options (``--test-only``), and send nothing.

    Raises:
        UserError: it would refuse the job. RunError: it does not answer.
    """
    argv = ["sbatch", "--test-only", *spell(options), "--wrap=true"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunError("Slurm does not answer (sbatch --test-only took over 60 s); nothing was sent") from error
    if done.returncode:
        raise refusal(done.stderr)


def refusal(text: str) -> UserError | RunError:
    """Why sbatch refuses a job, in one line, from what it printed: a mistake of the user, or that Slurm is away."""
    lines = [line for line in text.splitlines() if "error:" in line or "ailure" in line] or text.strip().splitlines()
    reason = "; ".join(line.partition("error:")[2].strip() or line.strip() for line in lines[:2])
    if "fetch_config" in text or "slurm.conf" in text:
        return UserError(f"Slurm's commands are here, but not its configuration: {reason}; set SLURM_CONF")
    if any(word in text for word in ("ontact slurm controller", "onnection", "imed out", "ocket")):
        return RunError(f"Slurm does not answer: {reason}")
    return UserError(f"Slurm refuses the job: {reason}; correct the cluster profile (slurm/clusters/)")
