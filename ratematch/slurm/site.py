"""Is a cluster as its profile says? Checks from a login node, without a job.

:func:`refuse_missing` is what a sweep checks before it sends anything; ``ratematch doctor`` shows all checks.
"""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ratematch.errors import RatematchError, UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.finding import Finding
from ratematch.slurm.queue import ask_slurm, read_fields
from ratematch.slurm.sbatch import Options, check_submission, extra_options, site_options
from ratematch.slurm.survey import SEGMENT_SINCE, both_streams, list_accounts, read_mpi, version_numbers
from ratematch.slurm.topology import judge_segment

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")


def refuse_missing_programs() -> None:
    """Raises UserError when Slurm's commands are not here."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise UserError(
            f"{missing[0]} is not on PATH: this is no Slurm login node; load Slurm here, or use "
            "--executor local or --executor simulate"
        )


def refuse_missing(cluster: Cluster) -> None:
    """Raises UserError, in one line, when this is no login node or what servers need of it is not there."""
    refuse_missing_programs()
    for finding in (*check_files(cluster), *check_pyxis(cluster)):
        if not finding.ok:
            raise UserError(f"cluster profile {cluster.name}: {finding.name}: {finding.found}")


def check_files(cluster: Cluster) -> Iterator[Finding]:
    """Image, mounts and prologue, where the login node sees what servers see (``check_paths``)."""
    if (prologue := cluster.slurm.prologue) is not None:
        there = Path(prologue).is_file()
        yield Finding("prologue", there, prologue if there else f"{prologue} does not exist")
    if (container := cluster.container) is None or not cluster.check_paths:
        return
    if (file := container.file) is None:
        yield Finding("container image", True, f"{container.image}, from a registry: pulled when a job starts")
    else:
        yield Finding("container image", *_readable(Path(file)))
    for mount in container.mounts:
        host = Path(mount.partition(":")[0])
        there = host.exists()
        description = mount if there else f"{host} does not exist; set check_paths: false if only the nodes have it"
        yield Finding("container mount", there, description)


def why_unmountable(folder: Path, cluster: Cluster) -> str | None:
    """Why servers in a container could not be given ``folder``; ``None`` when they can, or there is no container."""
    path = str(folder.absolute())
    wrong = [character for character in ":," if character in path]
    if cluster.container is None or not wrong:
        return None
    return f"{path} has {' and '.join(map(repr, wrong))} in its path, which no mount of a container can have"


def _readable(path: Path) -> tuple[bool, str]:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        return False, f"{path} {why}; set check_paths: false if only the nodes see it"
    return True, f"{path}, {path.stat().st_size / 1e9:.1f} GB"


def check_pyxis(cluster: Cluster) -> Iterator[Finding]:
    """Does srun know how to start a container?"""
    if cluster.container is None:
        return
    there = "--container-image" in (ask_slurm(["srun", "--help"]) or "")
    description = (
        "srun takes --container-image" if there else "srun has no --container-image: pyxis is not installed here"
    )
    yield Finding("pyxis", there, description)


def weights_on_host(path: str, cluster: Cluster) -> Path | None:
    """Where the login node sees the weights that servers find at ``path``; ``None`` when no mount shows them.

    The mount with the longest inside path counts, as it does for the kernel.
    """
    if cluster.container is None:
        return Path(path)
    inside = PurePosixPath(path)
    mounts = sorted((mount.split(":") for mount in cluster.container.mounts), key=lambda parts: -len(parts[1]))
    for host, target, *_ in mounts:
        if inside.is_relative_to(target):
            return Path(host) / inside.relative_to(target)
    return None


def check_weights(cluster: Cluster) -> Iterator[Finding]:
    """Each of ``model_paths``, through the mounts."""
    for model, path in cluster.model_paths.items():
        if why := why_no_weights(path, cluster):
            yield Finding(f"weights of {model}", False, why)
        elif cluster.check_paths:
            yield Finding(f"weights of {model}", True, str(weights_on_host(path, cluster)))


def why_no_weights(path: str, cluster: Cluster) -> str | None:
    """Why servers will not find weights at ``path``; ``None`` when they may."""
    if "/" not in path:
        return None
    host = weights_on_host(path, cluster)
    if host is None:
        return f"{path} is below no mount of the container: add one to container.mounts"
    if cluster.check_paths and not host.exists():
        through = "" if str(host) == path else f" ({path} in the container)"
        return f"{host}{through} does not exist"
    return None


# ------------------------------------------------------------------------------------------------------- Slurm


def check_slurm(cluster: Cluster) -> Iterator[Finding]:
    """Commands, version, and what the profile asks Slurm for: a handful of queries, each once."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        yield Finding("Slurm", False, f"{', '.join(missing)} not on PATH: this is no login node")
        return
    version = (ask_slurm(["sbatch", "--version"]) or "").strip()
    numbers = version_numbers(version)
    if numbers == (0, 0):
        yield replace(_test_job(cluster), name="Slurm")
        return
    yield Finding("Slurm", True, version)
    if cluster.slurm.segment is not None:
        known = numbers >= SEGMENT_SINCE
        late = f"{version} has no --segment (23.11 and later): remove slurm.segment"
        yield judge_segment(cluster.slurm.segment) if known else Finding("segment", False, late)
    yield _partition(cluster)
    yield from _account(cluster)
    yield from _mpi(cluster)
    yield from _excluded(cluster)
    yield from check_pyxis(cluster)
    yield _test_job(cluster)


def _partition(cluster: Cluster) -> Finding:
    name = cluster.slurm.partition
    output = ask_slurm(["scontrol", "show", "partition", "--oneliner", *([name] if name else [])])
    if output is None:
        return Finding("partition", False, f"{name or 'any'}: Slurm knows no such partition, or does not answer")
    partitions = [read_fields(line) for line in output.splitlines() if line.strip()]
    ours = [fields for fields in partitions if name or fields.get("Default") == "YES"]
    if not ours:
        known = ", ".join(fields.get("PartitionName", "?") for fields in partitions)
        return Finding("partition", False, f"there is no default one; set slurm.partition: {known}")
    fields = ours[0]
    state, nodes = fields.get("State", "?"), int(fields.get("TotalNodes", "0"))
    description = f"{fields['PartitionName']}: {state}, {nodes} nodes, at most {fields.get('MaxTime', '?')}"
    if state != "UP":
        return Finding("partition", False, f"{description}; it takes no jobs now")
    if nodes < cluster.nodes:
        return Finding("partition", False, f"{description}; the profile says nodes: {cluster.nodes}")
    return Finding("partition", True, description)


def _account(cluster: Cluster) -> Iterator[Finding]:
    if (account := cluster.slurm.account) is None:
        return
    known = list_accounts()
    if known is None:  # nobody keeps a list, and Slurm takes any name
        yield Finding("account", True, f"{account}: not looked up, this Slurm keeps no accounts")
        return
    who, names = getpass.getuser(), ", ".join(known) or "none"
    description = account if account in known else f"{who} may not use {account}; accounts: {names}"
    yield Finding("account", account in known, description)


def _mpi(cluster: Cluster) -> Iterator[Finding]:
    if (wanted := cluster.slurm.mpi) is None:
        return
    plugins = read_mpi(both_streams(["srun", "--mpi=list"]))
    there = wanted in plugins
    description = (
        f"srun --mpi={wanted}" if there else f"srun has no --mpi={wanted}; it lists {', '.join(plugins) or 'nothing'}"
    )
    yield Finding("MPI", there, description)


def _excluded(cluster: Cluster) -> Iterator[Finding]:
    for node in cluster.slurm.exclude:
        if ask_slurm(["scontrol", "show", "node", "--oneliner", node]) is None:
            yield Finding("excluded node", False, f"{node}: Slurm knows no such node")


def _test_job(cluster: Cluster) -> Finding:
    options: Options = {**site_options(cluster), "nodes": 1, "time": 10, **extra_options(cluster.slurm)}
    try:
        check_submission(options)
    except RatematchError as error:
        return Finding("a job of one node", False, str(error))
    return Finding("a job of one node", True, "sbatch --test-only takes it")
