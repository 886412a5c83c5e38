"""What ``run.sh`` does before it starts servers: the very steps of :mod:`ratematch.run.preparation`, in shell."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.run.preparation import copying, unpacking
from ratematch.slurm.srun import READY, Step, own_container, shared_container, trial_step

Spell = Callable[[Step], str]
"""A step as words of the shell, on lines."""

FUNCTIONS = f"""
# prepare NAME COMMAND...: gets the nodes ready for servers, and stays until `release NAME` ends its input
prepare() {{
  local name=$1
  shift
  "$@" >"$name.log" 2>&1 < <(echo "$BASHPID" >"$name.pid"; exec tail --pid=$$ -f /dev/null) &
  KEEPERS[$name]=$!
  echo "$name has begun, log: $WORK/$name.log"
}}

# prepared NAME COUNT: wait until so many nodes are ready
prepared() {{
  until (($(grep -c '^{READY} ' "$1.log") >= $2)); do
    kill -0 "${{KEEPERS[$1]}}" 2>/dev/null || return 1
    sleep 0.2
  done
}}

release() {{
  local name
  for name in "${{@:-${{!KEEPERS[@]}}}}"; do kill "$(<"$name.pid")" 2>/dev/null || true; done
}}
declare -A KEEPERS
"""

IMAGE = """
# The image is unpacked once on each node. Where servers cannot use that, each unpacks it for itself.
UNPACKED={own}
if prepared unpack {nodes}; then
  SHARED={shared}
  {trial} >unpack-trial.log 2>&1 </dev/null && UNPACKED=$SHARED
fi
if [[ $UNPACKED != "${{SHARED:-}}" ]]; then
  echo "each server unpacks the image for itself; why: $WORK/unpack.log, unpack-trial.log" >&2
  release unpack
fi
"""

WEIGHTS = """
prepared weights {nodes} || die "the weights are not there: $(tail -n 1 weights.log); log: $WORK/weights.log"
"""

NAME = "NAME"


def preparation_script(
    experiment: Experiment, cluster: Cluster, nodes: Sequence[str], trial_place: str, spell: Spell
) -> Iterator[str]:
    """The parts of the script. ``nodes``: of a Slurm job, empty = this machine. ``trial_place``: what ``spell``
    writes as ``"$SHARED"``.

    Raises:
        UserError: the weights cannot be staged.
    """
    image = unpacking(cluster, nodes) if nodes else None
    weights = copying(cluster, experiment, nodes)
    if image is None and weights is None:
        return
    yield FUNCTIONS
    count = len(nodes) or 1
    if weights is not None:
        yield f"\nprepare weights {spell(weights)}\n"
    if image is not None:
        yield f"\nprepare unpack {spell(image)}\n"
        before, after = shared_container(NAME).split(NAME)
        found = f"$(sed -n 's/^{READY} [^ ]* //p' unpack.log | head -n 1)"
        trial = spell(trial_step(cluster, nodes).within(trial_place))
        yield IMAGE.format(
            own=shlex.quote(own_container(cluster)), nodes=count, shared=f"{before}{found}{after}", trial=trial
        )
    if weights is not None:
        yield WEIGHTS.format(nodes=count)
