"""``start-triton.sh``: one MPI job of ``tritonserver``, from the files of a release to its clean end.

Model files are linked from the release, shared memory gets a prefix that no other start has (the mark of this start,
or the script's process id), and what is left of it is removed when all ranks are gone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ratematch.engines.triton.ranks import MODELS, World
from ratematch.engines.triton.repository import SOURCES
from ratematch.plan.printable import one_line

NAME = "start-triton.sh"
REPOSITORY = "repository"

EXIT_S = 1
"""Seconds that a server may take to unload its models at its end. It needs one for each instance of the orchestrator,
one after another, and is killed some ten after it is stopped: what it leaves is removed either way."""

PREFIX = "rm_${RATEMATCH_RUN:-pid$$}_"
"""The mark of a start is in the environment of all its processes; what holds it in its name is removed with them."""

HEAD = """\
#!/bin/bash
# {title}
# Rendered by ratematch. LEGACY: NVIDIA deleted Triton's disaggregated serving in July 2026; TensorRT-LLM up to 1.2.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
prefix={prefix}
die() {{ echo "{name}: $*" >&2; exit 1; }}
# link MODEL FOLDER: the version that holds its files
link() {{
  mkdir -p "{repository}/$1/1"
  [ -z "$2" ] && return
  [ -d "$2" ] || die "there is no $2: model files come from a TensorRT-LLM release (release_paths in the profile)"
  for file in "$2"/*; do ln -sfn "$file" "{repository}/$1/1/"; done
}}
# clean PREFIX: processes of models outlive a server that was cut short; both they and their memory have the prefix
clean() {{
  for file in $(grep -lasF -- "$1" /proc/[0-9]*/cmdline); do
    pid=${{file#/proc/}}
    kill -9 "${{pid%/cmdline}}" 2>/dev/null || true
  done
  rm -rf /dev/shm/"$1"*
}}
# engine FOLDER COMMAND: refused where it is not there, with what makes it
engine() {{ [ -f "$1/config.json" ] || die "there is no engine in $1; this makes it: $2"; }}
"""

RUN = """\
job=$! code=0
trap 'kill "$job" 2>/dev/null || true' INT TERM
wait "$job" || code=$?
while kill -0 "$job" 2>/dev/null; do wait "$job" || code=$?; done
clean "{own}"
exit "$code"
"""

JOB = """
{variables}
{command} &
{run}"""

STEP = """
# Multi-node: RENDERED ONLY, never run; no public example of it is known. Each rank is a task of one Slurm step.
rank=${{SLURM_PROCID:?this is a task of a Slurm step}}
{variables}
case $rank in
{cases}
esac
"${{words[@]}}" &
{run}"""

EACH_RANK = "${prefix}${rank}_"

LOCAL_MPI = """\
# mpirun starts its ranks here itself; inside a Slurm step it would else ask Slurm for them.
for name in $(compgen -v | grep -E '^(SLURM|PMI|PMIX)_' || true); do unset "$name"; done"""


_ADDRESS = re.compile(r"\d+(?:\.\d+){3}")


@dataclass(frozen=True)
class Listening:
    """Address and ports of rank 0."""

    host: str
    http: int
    grpc: int
    metrics: int


def server_flags(rank: int, listening: Listening, models: Sequence[str]) -> list[str]:
    """The flags of one rank, as words of a shell. Ranks other than the first load engines and nothing else."""
    # The server takes an address and no name; it listens on all addresses of a node that has a name.
    address = listening.host if _ADDRESS.fullmatch(listening.host) else "0.0.0.0"
    words = [
        f"--model-repository={REPOSITORY}",
        *(f"--{kind}-address={address}" for kind in ("http", "grpc", "metrics")),
        f"--http-port={listening.http}",
        f"--grpc-port={listening.grpc}",
        f"--metrics-port={listening.metrics}",
        f"--exit-timeout-secs={EXIT_S}",
        "--metrics-interval-ms=500",
        "--disable-auto-complete-config",
        f'--backend-config=python,shm-region-prefix-name="${{prefix}}{rank}_"',
    ]
    if rank:
        words += ["--model-control-mode=explicit", *(f"--load-model={model}" for model in models)]
    return words


def start_script(
    title: str,
    world: World,
    listening: Listening,
    command: Sequence[str],
    links: Mapping[str, str],
    engines: Sequence[tuple[str, str]],
    *,
    emulated: bool,
) -> str:
    """The text. ``command``: starts a server. ``links``: folder of the files of each model, empty = it has none.
    ``engines``: folders that must hold one, each with the command that makes it."""
    loaded = list(dict.fromkeys(MODELS[place.role] for place in world.places))
    server = shlex.join(command)
    parts = [
        HEAD.format(title=one_line(title), prefix=PREFIX, name=NAME, repository=REPOSITORY),
        *(f"link {model} {shlex.quote(folder)}\n" for model, folder in links.items()),
        *(
            f"# rank {rank}: {MODELS[place.role]} on {node}\n"
            for place in world.places
            for rank, node in place.ranked
        ),
        *(f"engine {shlex.quote(folder)} {shlex.quote(made_by)}\n" for folder, made_by in engines),
    ]

    def words(rank: int) -> str:
        return f"{server} {' '.join(server_flags(rank, listening, loaded))}"

    whole = RUN.format(own="$prefix")
    if emulated:
        return "".join(
            [*parts, JOB.format(variables="# No MPI: rank 0 stands for all.", command=words(0), run=whole)]
        )
    variables = "export TRTLLM_ORCHESTRATOR=1 TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES=0" if world.orchestrated else ":"
    if len(world.shares) > 1:
        cases = "\n".join(f"  {rank}) words=({words(rank)}) ;;" for rank in range(world.size))
        return "".join([*parts, STEP.format(variables=variables, cases=cases, run=RUN.format(own=EACH_RANK))])
    ranks = " : \\\n  ".join(f"-n 1 {words(rank)}" for rank in range(world.size))
    mpirun = f"mpirun --allow-run-as-root --oversubscribe \\\n  {ranks}"
    return "".join([*parts, JOB.format(variables=f"{variables}\n{LOCAL_MPI}", command=mpirun, run=whole)])


def model_links(models: Sequence[str], release: str) -> dict[str, str]:
    """For each model of a repository, the folder of a release with its files; an ensemble has none."""
    return {model: "" if model == "ensemble" else f"{release}/{SOURCES[model]}/1" for model in models}
