"""Compares the processes of a rendered Dynamo deployment with what its recipe would have started: arguments and
environment of workers and frontends, and the processes around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ratematch.engines.dynamo.contract import Program, spell_flags
from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec

MODULES: dict[Program, str] = {"frontend": "dynamo.frontend", "trtllm": "dynamo.trtllm"}
MODES = {"ctx": "prefill", "gen": "decode", "agg": None}
"""What a server of each role is told to be; an aggregated one is told nothing."""

PLACED = ("http-host", "http-port")
"""Flags that follow from where a frontend stands."""

OF_WORKERS = ("model", "model-path", "served-model-name", "disaggregation-mode", "extra-engine-args")
"""Flags that say what a worker serves and which worker it is; they are compared apart."""

Flags = dict[str, object]
"""Flags by their main names: text, or true and false for one that stands alone."""


@dataclass
class Comparison:
    """``differences``: what is not the recipe's. ``flags`` and ``environment``: what is added to the frontends;
    ``worker_flags``: to the workers."""

    differences: list[str] = field(default_factory=list)
    flags: dict[str, object] = field(default_factory=dict)
    worker_flags: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """What is added, a line each."""
        for whose, flags in (("frontends'", self.flags), ("workers'", self.worker_flags)):
            if flags:
                words = (_word(name, value) for name, value in flags.items())
                yield f"ratematch adds to the {whose} arguments: {' '.join(sorted(words))}"
        if self.environment:
            words = (f"{name}={value}" for name, value in sorted(self.environment.items()))
            yield f"ratematch adds to the frontends' environment: {' '.join(words)}"


def _word(name: str, value: object) -> str:
    return f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}"


def compare_stack(stack: DynamoStack, plan: LaunchPlan, release: str) -> Comparison:
    """What differs between a recipe's Dynamo, fitted to a release, and the processes that are planned."""
    found = Comparison()
    frontends = [process for process in plan.processes if MODULES["frontend"] in process.argv]
    if len(frontends) != stack.frontends:
        found.differences.append(f"{len(frontends)} frontends instead of {stack.frontends}")
    found.differences += [*_compare_services(stack, plan)]
    for process in frontends:
        _compare_frontend(stack, process, release, found)
    for process in plan.processes:
        if process.role in MODES:
            found.differences += _compare_worker(stack, process, release, found)
    found.differences = list(dict.fromkeys(found.differences))
    return found


def _compare_services(stack: DynamoStack, plan: LaunchPlan) -> Iterator[str]:
    running = {process.name: process for process in plan.processes}
    wanted = {
        "etcd": stack.discovery == "etcd",
        "nats": "nats" in (stack.request_plane, stack.event_plane),
        "nginx": stack.nginx,
    }
    for name, there in wanted.items():
        if (name in running) is not there:
            yield f"{name} is {'not ' if there else ''}started"
    servers = {node for process in plan.processes if process.role in MODES for node in process.nodes}
    for name in ("etcd", "nats"):
        if name in running and servers.isdisjoint(running[name].nodes) is not stack.infra_node:
            yield f"{name} has {'no' if stack.infra_node else 'a'} node of its own"
    limits = [file.content for file in plan.files if file.path == "nats.conf"]
    size = stack.nats_max_payload_mb
    if limits != ([f"max_payload: {size * 2**20}\n"] if size and wanted["nats"] else []):
        yield f"NATS does not take messages of {size or 1} MB"


def _compare_frontend(stack: DynamoStack, process: ProcessSpec, release: str, found: Comparison) -> None:
    given, env = read_flags(process.argv, "frontend", release), dict(process.env)
    wanted = _spelled("frontend", release, {**stack.frontend_args, "router-mode": stack.router_mode})
    found.differences += _compare_flags("frontend", wanted, given)
    found.differences += _compare_planes("frontend", stack, given, env)
    found.differences += [
        f"frontend: {name}={env.get(name)} instead of {value}"
        for name, value in stack.frontend_env.items()
        if env.get(name) != value
    ]
    own = {*wanted, *PLACED, *_planes(stack)}
    found.flags |= {name: value for name, value in given.items() if name not in own}
    found.environment |= {name: value for name, value in env.items() if name not in stack.frontend_env}


def _compare_worker(stack: DynamoStack, process: ProcessSpec, release: str, found: Comparison) -> list[str]:
    who = process.role
    if MODULES["trtllm"] not in process.argv:
        return [f"{who}: no dynamo.trtllm is started"]
    given = read_flags(process.argv, "trtllm", release)
    wrong = _compare_flags(who, _spelled("trtllm", release, stack.worker_args), given)
    if given.get("disaggregation-mode") != MODES[who]:
        wrong.append(f"{who}: mode {given.get('disaggregation-mode')} instead of {MODES[who]}")
    if given.get("extra-engine-args") != f"{who}.yaml":
        wrong.append(f"{who}: reads {given.get('extra-engine-args')} instead of {who}.yaml")
    published = {name for name, value in given.items() if name.startswith("publish-") and value is True}
    more = sorted(published - {name for name, value in stack.worker_args.items() if value is True})
    wrong += [f"{who}: --{name} is added, and the recipe's workers publish nothing" for name in more]
    own = {*OF_WORKERS, *_planes(stack), *stack.worker_args, *more}
    found.worker_flags |= {name: value for name, value in given.items() if name not in own}
    return wrong + _compare_planes(who, stack, given, dict(process.env))


def read_flags(argv: Sequence[str], program: Program, release: str) -> Flags:
    """The flags of a Dynamo program in a command line: ``--a b``, ``--a=b``, ``--a`` and ``--no-a``."""
    flags: dict[str, object] = {}
    name = ""
    for word in argv[list(argv).index(MODULES[program]) + 1 :]:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            flags[name] = value if equals else True
            name = "" if equals else name
        elif name:
            flags[name], name = word, ""
    return spell_flags(program, release, flags)


def _spelled(program: Program, release: str, args: Mapping[str, object]) -> Flags:
    """Arguments of a recipe as :func:`read_flags` reads them; ``None`` for one that must not be there."""
    spelled = spell_flags(program, release, dict(args))
    return {
        name: value if value is None or isinstance(value, bool) else str(value) for name, value in spelled.items()
    }


def _compare_flags(who: str, wanted: Flags, given: Flags) -> list[str]:
    return [
        f"{who}: --{name} {given.get(name, 'is missing')} instead of {value}"
        for name, value in wanted.items()
        if given.get(name, False if value is False else None) != value
    ]


def _planes(stack: DynamoStack) -> dict[str, str | None]:
    """Flags that are settings of the whole deployment; ``store-kv`` is the older name of the first."""
    return {
        "discovery-backend": stack.discovery,
        "store-kv": stack.discovery,
        "request-plane": stack.request_plane,
        "event-plane": stack.event_plane,
    }


def _compare_planes(who: str, stack: DynamoStack, flags: Flags, env: Mapping[str, str]) -> list[str]:
    """A plane that a release has no flag and no variable for is its only one."""
    wrong = []
    for name, value in _planes(stack).items():
        given = flags.get(name, env.get(f"DYN_{name.upper().replace('-', '_')}"))
        if given not in (None, value):
            wrong.append(f"{who}: {name} {given} instead of {value}")
    if not {"discovery-backend", "store-kv"} & flags.keys():
        wrong.append(f"{who}: nothing says that it is discovered by {stack.discovery}")
    return wrong
