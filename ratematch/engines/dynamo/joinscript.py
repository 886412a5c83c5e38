"""The wait for a whole Dynamo deployment in a person's ``run.sh``: every frontend lists every worker, and answers."""

from __future__ import annotations

from ratematch.engines.asking import Shell
from ratematch.engines.dynamo.joining import expected, frontends, plain_request
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan

FUNCTIONS = """
# listed URL COMPONENT: how many workers of a kind a frontend lists
listed() {
  local pattern="\\"component\\":\\"$2\\",\\"endpoint\\":\\"generate\\""
  { curl --noproxy '*' --silent --max-time 5 "$1/health" | grep -o "$pattern" || true; } | wc -l
}

# whole URL COMPONENT COUNT SECONDS: a frontend answers before any worker is there
whole() {
  local deadline=$((SECONDS + $4)) count
  until count=$(listed "$1" "$2") && ((count >= $3)); do
    alive
    ((SECONDS < deadline)) || die "$1 lists $count of $3 $2 workers after $4 s"
    sleep 1
  done
  ((count == $3)) || die "$1 lists $count $2 workers, and $3 were started"
}

# completes URL REQUEST SECONDS
completes() {
  local deadline=$((SECONDS + $3))
  local ask=(curl --noproxy '*' --fail --silent --max-time 60 --output /dev/null)
  until "${ask[@]}" --header 'Content-Type: application/json' --data "$2" "$1/v1/completions"; do
    alive
    ((SECONDS < deadline)) || die "$1 answered no completion within $3 s"
    sleep 1
  done
}
"""


def join_script(plan: LaunchPlan, experiment: Experiment) -> Shell:
    """The wait, for every frontend; shorter than :func:`ratematch.engines.dynamo.joining.join`, which opens the
    connections of every pair too."""
    wanted = expected(plan, experiment)
    limit = str(int(max(spec.ready.deadline_s for spec in plan.processes) + 0.999))
    calls: list[tuple[str, ...]] = []
    for frontend in frontends(plan):
        base = f"http://{frontend.host}:{frontend.port}"
        calls += [("whole", base, component, str(count), limit) for component, count in wanted.counts.items()]
        calls.append(("completes", base, plain_request(wanted.model), limit))
    return Shell(FUNCTIONS, tuple(calls))
