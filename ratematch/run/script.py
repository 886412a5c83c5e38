"""A launch as a script: what a job does with one start of its servers, for a person to read, change and run.

``run.sh`` starts the very steps that :mod:`ratematch.run.launch` starts, wave after wave, waits until each server
answers, sends the loads (with ``ratematch load``, where there is one) and ends everything. It works in a fresh folder
beside itself each time. Where nodes are not known yet, placeholders stand for them, which it fills from the
allocation it finds itself in. Secrets are taken from the environment it is run in, by their names.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ratematch.engines import find_engine
from ratematch.inputs.catalog import model_of
from ratematch.loadgen.warming import AT_ONCE
from ratematch.plan.budget import minutes_on
from ratematch.plan.cluster import Cluster
from ratematch.plan.cores import CoreShare, core_share
from ratematch.plan.experiment import Experiment, seed_of
from ratematch.plan.launchplan import MADE_AT_LAUNCH, PRIVATE, START, LaunchPlan, ProcessSpec
from ratematch.plan.load import Concurrency, Load, Rate, Trace
from ratematch.plan.placement import nodes_on
from ratematch.plan.printable import one_line
from ratematch.plan.workload import Workload
from ratematch.run import warmup
from ratematch.run.placing import as_served
from ratematch.run.preparescript import preparation_script
from ratematch.slurm.sbatch import batch_options, prologue, spell
from ratematch.slurm.srun import HERE, UNPACKED, Step, local_step, slurm_step
from ratematch.version import __version__

Places = Mapping[str, str]
"""Placeholders, and what the shell has in their place."""

SHARED = "\0SHARED\0"
LAUNCH_FOLDER = {HERE: '"$WORK"', START: '"$START"', UNPACKED: '"$UNPACKED"', SHARED: '"$SHARED"'}

STOP_GRACE_S = 10
WIDTH = 100

HEAD = """\
#!/bin/bash
# {title}
# Rendered by ratematch {version} for cluster profile {cluster}: what a job of `ratematch sweep` starts.
#
#   bash run.sh          start the servers, send the loads, end the servers
#   bash run.sh serve    start the servers and leave them up until Ctrl-C
#
# Everything it writes is in a fresh folder beside it. Loads need `ratematch` on PATH (or RATEMATCH=/path/to/it).
set -euo pipefail

HERE=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
NAMES=() PIDS=() CODE=0

die() {{ echo "run.sh: $*" >&2; exit 1; }}

# start NAME COMMAND...: in the background, its output in NAME.log
start() {{
  local name=$1
  shift
  "$@" >"$name.log" 2>&1 </dev/null &
  NAMES+=("$name") PIDS+=($!)
  echo "$name started, log: $WORK/$name.log"
}}

alive() {{
  local index
  for index in "${{!PIDS[@]}}"; do
    if ! kill -0 "${{PIDS[$index]}}" 2>/dev/null; then
      tail -n 15 "${{NAMES[$index]}}.log" >&2
      die "${{NAMES[$index]}} has ended; its whole log: $WORK/${{NAMES[$index]}}.log"
    fi
  done
}}

# ready NAME URL SECONDS [any]: wait until URL answers, with whatever status where any will do
ready() {{
  local deadline=$((SECONDS + $3)) code
  local ask=(curl --noproxy '*' --fail --silent --max-time 5 --output /dev/null --write-out '%{{http_code}}')
  until code=$("${{ask[@]}}" "$2") || [[ ${{4:-}} == any && $code != 000 ]]; do
    alive
    case $code in
      000) code="does not answer" ;;
      503) code="answers 503: it is still loading" ;;
      *) code="answers $code" ;;
    esac
    ((SECONDS < deadline)) || die "$1 was not ready after $3 s ($2 $code); its log: $WORK/$1.log"
    sleep 1
  done
  echo "$1 is ready"
}}

# send OPTION...: one load; the others go on when its figures cannot be trusted, and the exit code tells
send() {{
  alive
  "$RATEMATCH" load "$ENDPOINT" --model "$MODEL" "$@" || CODE=$?
}}

# The last started is ended first; what stays longer than {grace} s is killed.
stop() {{
  trap - EXIT INT TERM
  local index
  for ((index = ${{#PIDS[@]}} - 1; index >= 0; index--)); do kill "${{PIDS[$index]}}" 2>/dev/null || true; done
  for ((second = 0; second < {grace} * 10; second++)); do
    kill -0 "${{PIDS[@]}}" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "${{PIDS[@]}}" 2>/dev/null || true
  release
  wait
  forget
}}

release() {{ :; }}
forget() {{ :; }}
"""

MAIN = """
RATEMATCH=${{RATEMATCH:-ratematch}}
if [[ ${{1:-}} != serve ]]; then
  # Before any GPU is taken for minutes.
  command -v "$RATEMATCH" >/dev/null || die "$RATEMATCH is not on PATH, loads need it (\\`run.sh serve\\` does not)"
fi
WORK="$HERE/run-${{SLURM_JOB_ID:-$(date +%Y%m%dT%H%M%S)}}-$$"
mkdir "$WORK"
cd "$WORK"
{files}
trap 'stop' EXIT
trap 'exit 130' INT TERM
"""

SECRET = ': "${{{name}:?set {name} before running this}}"\nexport {name}\n'
"""A secret is in no file: whoever runs the script has it in the environment."""

SECRET_FILES = """
# The secret of this start: in copies that only their owner can read, in no argument, and gone with the servers.
KEY=$(od -An -N32 -tx1 /dev/urandom)
KEY=${{KEY//[[:space:]]/}}
mkdir -m 700 {private}
forget() {{ rm -rf "$WORK/{private}"; }}
for file in {names}; do
  text=$(<"$file")
  (umask 077; printf '%s\\n' "${{text//"{placeholder}"/$KEY}}" >"{private}/$file")
done"""

BY_BLOCK = """
# Nodes of a block (an NVLink domain) side by side, as jobs have them; Slurm lists nodes by their names.
by_block() {
  local -A block=() members=()
  local list node number=0 order=()
  while read -r list; do
    number=$((number + 1))
    while read -r node; do block[$node]=$number; done < <(scontrol show hostnames "$list")
  done < <(scontrol show topology 2>/dev/null | sed -nE 's/(^|.* )BlockName=.* Nodes=([^ ]+).*/\\2/p')
  for node in "$@"; do
    list=${block[$node]:-alone-$node}
    [[ -n ${members[$list]:-} ]] || order+=("$list")
    members[$list]+="$node"$'\\n'
  done
  for list in "${order[@]}"; do printf '%s' "${members[$list]}"; done
}
mapfile -t NODES < <(by_block "${NODES[@]}")
"""

APART = """
# The load generator keeps {own} cores of its node to itself where servers, which it knows by this, keep {kept}.
export RATEMATCH_RUN="run.sh-$$-$SECONDS-$RANDOM"
export RATEMATCH_LOAD_APART="{spelt}"
"""

NAME_OF_START = """
# Another name at each start, for what two starts must not share by accident.
START=$(od -An -N6 -tx1 /dev/urandom)
START=${START//[[:space:]]/}
"""

TAIL = """
ENDPOINT={endpoint} MODEL={model}
echo "all servers are ready: $ENDPOINT"
if [[ ${{1:-}} == serve ]]; then
  while alive; do sleep 2; done
fi
"""


def run_script(
    experiment: Experiment, plan: LaunchPlan, cluster: Cluster, *, allocated: bool, nodes: Sequence[str] = ()
) -> str:
    """The text of ``run.sh``. ``experiment``: with its weights where they lie. ``allocated``: servers are steps of a
    Slurm job, else processes of this machine. ``nodes``: placeholders in ``plan`` for the nodes of the allocation
    that it will find itself in."""
    steps = [slurm_step(spec, cluster) if allocated else local_step(spec, cluster) for spec in plan.processes]
    product = find_engine(experiment.engine.key).product
    title = f"{experiment.label}, experiment {experiment.id}, {product} {experiment.engine.version}"
    title, name = one_line(title), one_line(cluster.name)
    places = {node: f'"${{NODES[{index}]}}"' for index, node in enumerate(nodes)} | LAUNCH_FOLDER
    secrets = dict.fromkeys(secret for step in steps for secret in step.secrets)
    parts = [
        HEAD.format(title=title, version=__version__, cluster=name, grace=STOP_GRACE_S),
        *(SECRET.format(name=secret) for secret in secrets),
        _find_nodes(len(nodes), BY_BLOCK if cluster.slurm.segment else "") if nodes else "",
        MAIN.format(files=_copy_files(plan, nodes)),
        _apart(share) if (share := core_share(cluster)) else "",
        NAME_OF_START if any(START in word for step in steps for word in _words(step)) else "",
    ]
    own = list(dict.fromkeys(node for spec in plan.processes for node in spec.nodes)) if allocated else []

    def spell_step(step: Step) -> str:
        return _lines(_words_of(step), places)

    parts += preparation_script(experiment, cluster, own, SHARED, spell_step)
    experiment = as_served(experiment, cluster)
    for wave in sorted({spec.wave for spec in plan.processes}):
        both = [(spec, step) for spec, step in zip(plan.processes, steps, strict=True) if spec.wave == wave]
        parts += ["\n" + start_line(spec, step, places) for spec, step in both]
        parts += [
            f"ready {spec.name} {quote(spec.ready.url, places)} {int(spec.ready.deadline_s + 0.999)}"
            f"{' any' if spec.ready.alive else ''}\n"
            for spec, _ in both
        ]
    parts += _join(experiment, plan, places)
    parts.append(TAIL.format(endpoint=quote(plan.endpoint, places), model=shlex.quote(_request_api(experiment)[0])))
    parts += [_warm_up(experiment)] if experiment.mode == "e2e" else []
    # Breakdown loads beside others need servers of their own.
    loads = [load for load in experiment.loads if load.breakdown == experiment.loads[0].breakdown]
    parts += [_send(experiment, load) for load in loads]
    return "".join([*parts, 'exit "$CODE"\n'])


def _join(experiment: Experiment, plan: LaunchPlan, places: Places) -> Iterator[str]:
    """The wait for the deployment as a whole, where its servers' own addresses do not tell."""
    shell = find_engine(experiment.engine.key).join_script(plan, experiment)
    if shell is not None:
        yield shell.functions
        yield "\n"
        for call in shell.calls:
            yield " ".join(quote(word, places) for word in call) + "\n"


def _words(step: Step) -> Iterator[str]:
    yield from step.argv
    yield from (value for _, value in step.env)


def batch_script(experiment: Experiment, cluster: Cluster) -> str:
    """The text of ``job.sbatch``: the options of a job that ``ratematch sweep`` sends, around ``run.sh``."""
    nodes = nodes_on(experiment.deployment, cluster)
    options = batch_options(cluster, nodes, minutes_on(cluster, experiment))
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=ratematch-{experiment.id}",
        *(f"#SBATCH {word}" for word in spell(options, quote=shlex.quote)),
        "#SBATCH --output=slurm-%j.out",
        "#SBATCH --open-mode=append",
        "",
        "# sbatch job.sbatch, from the folder that holds it and run.sh.",
        *prologue(cluster),
        'exec bash "$SLURM_SUBMIT_DIR/run.sh" "$@"',
    ]
    return "\n".join(lines) + "\n"


def quote(word: str, places: Places = LAUNCH_FOLDER) -> str:
    """``word`` for the shell: plain text quoted, each of the placeholders as the variable that holds its value."""
    parts = re.split("(" + "|".join(map(re.escape, places)) + ")", word) if places else [word]
    quoted = [places.get(part) or (shlex.quote(part) if part else "") for part in parts]
    return "".join(quoted) or "''"


def node_placeholders(count: int, texts: Iterable[str]) -> list[str]:
    """Names for ``count`` nodes that an allocation will fill in, which stand in none of ``texts``, a user's own."""
    given = "\n".join(texts)
    salts = itertools.chain([""], map("{}_".format, itertools.count(2)))
    salt = next(salt for salt in salts if f"__NODE{salt}" not in given)
    return [f"__NODE{salt}{index}__" for index in range(count)]


def _find_nodes(count: int, order: str) -> str:
    return f"""
[[ -n ${{SLURM_JOB_NODELIST:-}} ]] || die "needs {count} nodes: sbatch job.sbatch, or salloc --nodes={count} first"
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
((${{#NODES[@]}} >= {count})) || die "needs {count} nodes, and job $SLURM_JOB_ID holds ${{#NODES[@]}}"
{order}"""


def _copy_files(plan: LaunchPlan, nodes: Sequence[str]) -> str:
    names = " ".join(shlex.quote(file.path) for file in plan.files)
    secret = " ".join(shlex.quote(file.path) for file in plan.files if file.secret)
    after = SECRET_FILES.format(names=secret, private=PRIVATE, placeholder=MADE_AT_LAUNCH) if secret else ""
    into = 'mkdir -p "$(dirname "$file")"; ' if any("/" in file.path for file in plan.files) else ""
    if not nodes:
        target = '"$file"' if into else "."
        return f'for file in {names}; do {into}cp "$HERE/$file" {target}; done{after}'
    fill = " ".join(f'-e "s/{node}/${{NODES[{index}]}}/g"' for index, node in enumerate(nodes))
    return f'for file in {names}; do\n  {into}sed {fill} "$HERE/$file" >"$file"\ndone{after}'


def start_line(spec: ProcessSpec, step: Step, places: Places = LAUNCH_FOLDER) -> str:
    """The command of ``run.sh`` that starts one process."""
    return f"start {spec.name} {_lines(_words_of(step), places)}\n"


def _apart(share: CoreShare) -> str:
    return APART.format(own=share.own, kept=share.kept, spelt=share.spell("RATEMATCH_RUN=$RATEMATCH_RUN"))


def _words_of(step: Step) -> list[str]:
    """The command of a step in its environment, which inherits its secrets."""
    unset = [name for name in step.unset if name not in step.secrets]
    env = [f"{name}={value}" for name, value in step.env if name not in step.secrets]
    return [*(("env",) if env or unset else ()), *(f"--unset={name}" for name in unset), *env, *step.argv]


def _lines(words: Sequence[str], places: Places) -> str:
    """Words on lines that a person can read; an option and its value stay on one."""
    text, width, option = "", 0, False
    for word in (quote(word, places) for word in words):
        if width + len(word) > WIDTH and not option:
            text, width = text + "\\\n  ", 0
        text, width, option = f"{text}{word} ", width + len(word) + 1, word.startswith("-") and "=" not in word
    return "\\\n  " + text.rstrip()


def _request_api(experiment: Experiment) -> tuple[str, tuple[str, ...]]:
    """The model's name in requests, and the options of `ratematch load` for its API."""
    given = find_engine(experiment.engine.name).request_api(experiment)
    return given.model or experiment.model_path, () if given.api == "completions" else ("--api", given.api)


def _warm_up(experiment: Experiment) -> str:
    """Opens the connections between context and generation servers (:mod:`ratematch.run.warmup`)."""
    count = warmup.count_requests(experiment.deployment)
    workload = Workload(min(warmup.ISL, experiment.workload.isl), min(warmup.OSL, experiment.workload.osl))
    load = Concurrency(min(AT_ONCE, count), count)
    seed = seed_of(experiment, experiment.loads[0]) + 2
    words = [
        *_request_api(experiment)[1],
        *_load_options(load, seed),
        *_workload_options(workload, model_of(experiment).vocab),
        "-o",
        "connections",
    ]
    # So few tokens give no figures, and none are wanted.
    return f"send {_lines(words, {})}\nCODE=0\n"


def _send(experiment: Experiment, load: Load) -> str:
    warmed = ["--warm-prompts"] if experiment.mode == "gen_only_warmed" else []
    options = _load_options(load, seed_of(experiment, load))
    workload = _workload_options(experiment.workload, model_of(experiment).vocab)
    words = [*_request_api(experiment)[1], *options, *workload, *warmed, "-o", "loads"]
    return f"send {_lines(words, {})}\n"


def _load_options(load: Load, seed: int) -> Iterator[str]:
    """The load as options of ``ratematch load``. Each has a seed of its own, the one that a sweep gives it: they are
    sent to the same servers, and none may find another's prompts in the prefix cache."""
    match load:
        case Concurrency():
            yield from ("--concurrency", str(load.concurrency))
            if load.seconds:
                yield from ("--duration", f"{load.seconds:g}")
            if load.stagger_s:
                yield from ("--stagger", f"{load.stagger_s:g}")
        case Rate():
            yield from ("--request-rate", f"{load.req_s:g}", "--arrival", load.arrival)
            if load.arrival == "gamma":
                yield from ("--burstiness", f"{load.burstiness:g}")
            if load.end_req_s:
                yield from ("--ramp-to", f"{load.end_req_s:g}")
        case Trace():
            yield from ("--replay", f"{load.speed:g}")
    if not isinstance(load, Concurrency) and load.max_in_flight:
        yield from ("--max-in-flight", str(load.max_in_flight))
    yield from ("--num-requests", str(load.num_requests), "--warmup", str(load.warmup), "--seed", str(seed))


def _workload_options(workload: Workload, vocab: int) -> Iterator[str]:
    yield from ("--isl", str(workload.isl), "--osl", str(workload.osl))
    for name, share in (("isl", workload.isl_ratio), ("osl", workload.osl_ratio)):
        if share != 1:
            yield from (f"--{name}-ratio", f"{share:g}")
    for name, spread in (("isl", workload.isl_spread), ("osl", workload.osl_spread)):
        if spread:
            yield from (f"--{name}-spread", str(spread))
    if workload.prefix_share:
        yield from ("--prefix-share", f"{workload.prefix_share:g}", "--prefix-groups", str(workload.prefix_groups))
    if workload.turns > 1:
        yield from ("--turns", str(workload.turns), "--think-time", f"{workload.think_s:g}")
    # The script works in a folder of its own.
    if workload.file and workload.time_unit:
        yield from ("--time-unit", workload.time_unit)
    if workload.file and workload.hash_block:
        yield from ("--hash-block", str(workload.hash_block))
    for name, path in (("dataset", workload.file), ("text", workload.text), ("tokenizer", workload.tokenizer)):
        if path:
            yield from (f"--{name}", str(Path(path).absolute()))
    yield from ("--vocab-size", str(vocab))
