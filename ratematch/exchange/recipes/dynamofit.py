"""A recipe's Dynamo as the keys of ``engine:`` in a sweep file: typed arguments, and without what a measurement sets
itself; whatever is changed is said."""

from __future__ import annotations

from dataclasses import replace

from ratematch.engines.dynamo.contract import Program, flags, has_flag, release_line, spell_flags
from ratematch.engines.dynamo.stack import FORCED_FRONTEND, FORCED_VARIABLES, OWN_FRONTEND
from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.exchange.recipes.recipe import Recipe, Servers
from ratematch.plan.deployment import Options

SAME_AS_SET = {
    "DYN_HEALTH_CHECK_ENABLED": "false",
    "DYN_MIGRATION_LIMIT": "0",
    "DYN_ROUTER_CONDITIONAL_DISAGG": "false",
}
"""What a measurement sets itself: a recipe that says the same is not changed."""


LEFT_OUT = None
"""The value of a flag that the engine would add by itself and the recipe does not give: a variable or the program's
default decides, as with the recipe."""


def fit_recipe(recipe: Recipe, release: str) -> Recipe:
    """``recipe`` as Dynamo's ``release`` can be told it, with a note of each change."""
    stack = recipe.dynamo
    if stack is None:
        return recipe
    notes: list[str] = []
    args = _frontend_args(stack, release, notes)
    fitted = replace(
        stack,
        router_mode=stack.router_mode or "round-robin",
        frontend_args=args,
        frontend_env=_without_forced(stack.frontend_env, "frontend.env", notes),
        worker_args=_worker_args(stack, release, notes),
        request_plane=_request_plane(stack, notes),
        event_plane=stack.event_plane or default_event_plane(stack, release),
    )
    if stack.nats_max_payload_mb and "nats" not in (fitted.request_plane, fitted.event_plane):
        notes.append("nats_max_payload_mb has no effect: no plane uses NATS, so none is started")
        fitted = replace(fitted, nats_max_payload_mb=None)
    servers = tuple(_fit_servers(group, notes) for group in recipe.servers)
    return replace(recipe, dynamo=fitted, servers=servers, notes=(*recipe.notes, *notes))


def default_event_plane(stack: DynamoStack, release: str) -> str:
    """The event plane of a release that is told none: NATS with etcd, as its help says, where there is a NATS."""
    return "nats" if stack.nats or not has_flag("frontend", release, "event-plane") else "zmq"


def _request_plane(stack: DynamoStack, notes: list[str]) -> str:
    if stack.request_plane != "http":
        return stack.request_plane
    notes.append("changed: request plane http is tcp here; releases since 1.3 have no other beside NATS")
    return "tcp"


def _frontend_args(stack: DynamoStack, release: str, notes: list[str]) -> Options:
    fitted: Options = {}
    for option, value in typed("frontend", release, stack.frontend_args).items():
        ((name, meant),) = spell_flags("frontend", release, {option: value}).items()
        if name in FORCED_FRONTEND:
            forced, why = FORCED_FRONTEND[name]
            if meant not in (forced, None, False):
                notes.append(f"changed: frontend.args.{option} {value} is left out: {why}")
        elif name in OWN_FRONTEND:
            notes.append(f"changed: frontend.args.{option} {value} is left out: {OWN_FRONTEND[name]}")
        else:
            fitted[option] = value
    spelled = spell_flags("frontend", release, fitted)
    if stack.frontends > 1 and stack.router_mode == "kv" and "router-replica-sync" not in spelled:
        fitted["router-replica-sync"] = LEFT_OUT
    return fitted


def _worker_args(stack: DynamoStack, release: str, notes: list[str]) -> Options:
    """Flags of every worker. For a router that ranks workers by their blocks they would publish theirs: here only
    what the recipe says."""
    given = spell_flags("trtllm", release, typed("trtllm", release, stack.worker_args))
    if given.get("publish-metrics") and not has_flag("trtllm", release, "publish-metrics"):
        del given["publish-metrics"]
        notes.append(f"workers publish no metrics: Dynamo {release_line(release)} has no such flag")
    elif "publish-events-and-metrics" in stack.worker_args and has_flag("trtllm", release, "publish-metrics"):
        given["publish-metrics"] = True  # the older flag is both of these since they are two
    events = "publish-kv-events" if has_flag("trtllm", release, "publish-kv-events") else "publish-events-and-metrics"
    if stack.router_mode == "kv":
        given.setdefault(events, LEFT_OUT)
    return given


def typed(program: Program, release: str, args: Options) -> Options:
    """``args`` with numbers where a flag wants one and its text is one: a command line is the same with both."""
    known = flags(program, release_line(release))
    fitted: Options = {}
    for option, value in args.items():
        name = next(iter(spell_flags(program, release, {option: value})))
        kind = known.get(name, {}).get("type")
        fitted[option] = _number(value) if kind in ("int", "float") and isinstance(value, str) else value
    return fitted


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text:
            return number
    return text


def _without_forced(environment: dict[str, str], place: str, notes: list[str]) -> dict[str, str]:
    forced = {name: value for name, value in environment.items() if name in FORCED_VARIABLES}
    notes += [
        f"changed: {place}: {name}={value} is left out: {FORCED_VARIABLES[name]}"
        for name, value in forced.items()
        if SAME_AS_SET.get(name) != value.lower()
    ]
    return {name: value for name, value in environment.items() if name not in forced}


def _fit_servers(servers: Servers, notes: list[str]) -> Servers:
    return replace(servers, environment=_without_forced(servers.environment, f"{servers.role} environment", notes))
