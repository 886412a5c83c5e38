"""Reads what an srt-slurm recipe says of Dynamo: its frontends, planes and version, and the processes around it.

The older layout has ``dynamo.version`` (or ``hash``, ``wheel``), ``infra`` and ``backend.publish_*``; ``schema: 2``
has ``dynamo.source``, ``services`` and ``engine.publish_*``. What is left out has srt-slurm's own default in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ratematch.exchange.recipes.dynamostack import DynamoStack, NamedRelease
from ratematch.exchange.recipes.reader import Reader, Unsupported, shown
from ratematch.exchange.recipes.recipe import Servers, read_environment
from ratematch.plan.deployment import Options
from ratematch.plan.secret import MASK, masked

MOST_FRONTENDS = 10
"""The head node's and ``num_additional_frontends`` (9 unless given): what srt-slurm starts at most."""

INSTALLED = "0.8.0"
"""The release that the older layout installs where a recipe asks for one and names none."""

PORTS = ("http-port", "http-host", "namespace", "namespace-prefix")
"""Of a frontend's arguments: where it listens and whom it serves, which each start decides anew."""


def is_dynamo(reader: Reader) -> bool:
    """Are the recipe's servers behind Dynamo's frontend? They are, where it names no other."""
    kind = reader.section("frontend").get("type", "dynamo")
    return kind == "dynamo" or kind is None


OF_A_START = (
    "ETCD_ENDPOINTS",
    "NATS_SERVER",
    "DYN_FILE_KV",
    "DYN_SYSTEM_PORT",
    "DYN_NAMESPACE",
    "DYN_HTTP_HOST",
    "DYN_HTTP_PORT",
)
"""Variables that say where one start's processes meet: each start decides them anew, so that nothing of another one
is found."""

PLANE_VARIABLES = ("DYN_DISCOVERY_BACKEND", "DYN_STORE_KV", "DYN_REQUEST_PLANE", "DYN_EVENT_PLANE")
"""Variables that are settings of the whole deployment."""


def without_start(environment: Mapping[str, str], place: str, notes: list[str]) -> dict[str, str]:
    """``environment`` without :data:`OF_A_START`, and a note of what was left out."""
    left = [name for name in environment if name in OF_A_START]
    if left:
        notes.append(f"{place}: {', '.join(left)} is of one start and is not copied: each start makes its own")
    return {name: value for name, value in environment.items() if name not in (*OF_A_START, *PLANE_VARIABLES)}


def _without_secrets(environment: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``environment`` of the frontends without its secrets, for which a sweep has no place there, and a note of them.

    Workers take theirs from where the sweep is started; a recipe's ``environment`` is of both.
    """
    secrets = [name for name, value in masked(environment).items() if value == MASK]
    if secrets:
        notes.append(
            f"frontends: {', '.join(secrets)} is a secret and is not copied; where they need it, set it under "
            "environment of the cluster profile"
        )
    return {name: value for name, value in environment.items() if name not in secrets}


def read_stack(
    reader: Reader, schema: int, servers: list[Servers], nodes: int, notes: list[str]
) -> tuple[DynamoStack, list[Unsupported]]:
    """Dynamo's parts of a recipe, and services of it that have no counterpart. ``nodes``: of the recipe's workers."""
    count, nginx = _frontends(reader, nodes, notes)
    args = _frontend_args(reader, notes)
    common = read_environment(reader, ("environment",), reader.section("environment"))
    own = read_environment(reader, ("frontend", "env"), reader.take_map("frontend", "env"))
    environment = {**common, **own}
    infra, left = _infra(reader, schema)
    everywhere = [environment, *(group.environment for group in servers)]
    planes = [_plane(reader, name, everywhere, args) for name in ("request", "event")]
    mode = args.pop("router-mode", None) or environment.pop("DYN_ROUTER_MODE", None)
    environment.pop("DYN_ROUTER_MODE", None)  # the argument stands above it
    stack = DynamoStack(
        frontends=count,
        nginx=nginx,
        router_mode=None if mode is None else str(mode),
        frontend_args=args,
        frontend_env=_without_secrets(without_start(environment, "frontend.env", notes), notes),
        worker_args=_published(reader, schema),
        discovery=_discovery(reader, everywhere, args),
        request_plane=planes[0] or "tcp",
        event_plane=planes[1],
        nats=infra.nats or "nats" in planes,
        nats_max_payload_mb=infra.max_payload_mb,
        infra_node=infra.node,
        releases=_releases(reader, notes),
        origins={
            "frontends": reader.origin("frontend", "enable_multiple_frontends"),
            "frontend_args": reader.origin("frontend", "args"),
            "frontend_env": reader.origin("frontend", "env"),
            "request_plane": reader.origin("dynamo", "request_plane"),
            "event_plane": reader.origin("dynamo", "event_plane"),
        },
    )
    return stack, left


def _frontends(reader: Reader, nodes: int, notes: list[str]) -> tuple[int, bool]:
    """How many frontends srt-slurm starts, and whether nginx is before them: one on the head node, or nginx there and
    one frontend on each of the further nodes, up to the number that is asked for."""
    reader.take("frontend", "type")
    several = reader.take_flag("frontend", "enable_multiple_frontends")
    further = reader.take_count("frontend", "num_additional_frontends", least=0, most=10**4)
    for path in (("orchestrator_placement",), ("placement", "node")):
        if reader.peek_text("frontend", *path) == "head":
            reader.take("frontend", *path)
    count = min(MOST_FRONTENDS if further is None else further + 1, nodes - 1)
    if several is not False and count > 0:
        return count, True
    idle = [key for key in reader.section("frontend") if key.startswith("nginx_")]
    for key in idle:
        reader.take("frontend", key)
    if idle:
        notes.append(f"the recipe starts one frontend and no nginx: {', '.join(idle)} has no effect")
    return 1, False


def _frontend_args(reader: Reader, notes: list[str]) -> Options:
    """Arguments of a frontend: ``true`` is a flag alone; srt-slurm leaves out ``false`` and null."""
    args: Options = {}
    for name, value in reader.take_map("frontend", "args").items():
        flag = str(name).removeprefix("--")
        if flag in PORTS:
            notes.append(f"frontend.args.{name}: {shown(value)} is of one start: each start makes its own")
        elif isinstance(value, (dict, list)):
            reader.located.add(("frontend", "args", name), f"must be one value, not {shown(value)}")
        elif value is not None and value is not False:
            args[flag] = value
    selection = reader.section("frontend").get("worker_selection")
    if selection is not None:
        notes.append("frontend.worker_selection is a file of its own: give it with router-policy-config")
    return args


def _published(reader: Reader, schema: int) -> Options:
    """The flag with which a worker publishes. ``schema: 2`` publishes metrics unless told not to."""
    keys = "publish_events_and_metrics", "publish_metrics"
    both, metrics = (
        next((value for place in ("engine", "backend") if (value := _of(reader, place, key)) is not None), None)
        for key in keys
    )
    if both is True:
        return {"publish-events-and-metrics": True}
    return {"publish-metrics": True} if (metrics is None and schema >= 2) or metrics is True else {}


def _of(reader: Reader, section: str, key: str) -> bool | None:
    """The truth value at a key of a section that may be a name instead of a map."""
    if not isinstance(reader.located.data.get(section), dict):
        return None
    return reader.take_flag(section, key)


PLANES = {"request": ("tcp", "nats", "http"), "event": ("zmq", "nats")}


def _plane(reader: Reader, name: str, environments: list[dict[str, str]], args: Options) -> str | None:
    """The plane that all processes use: as the recipe's key says, a variable or an argument of the frontends."""
    variable, flag = f"DYN_{name.upper()}_PLANE", f"{name}-plane"
    given = reader.take("dynamo", f"{name}_plane")
    said = [] if given is None else [str(given)]
    said += [environment[variable] for environment in environments if variable in environment]
    said += [str(args.pop(flag))] if flag in args else []
    where = ("dynamo", f"{name}_plane")
    if len(set(said)) > 1:
        reader.located.add(
            where, f"processes that talk to each other use different ones: {', '.join(sorted(set(said)))}"
        )
        return None
    if said and said[0] not in PLANES[name]:
        reader.located.add(where, f"must be one of {', '.join(PLANES[name])}, not {shown(said[0])}")
        return None
    return said[0] if said else None


def _discovery(reader: Reader, environments: list[dict[str, str]], args: Options) -> Literal["etcd", "file"]:
    """Where processes find each other: etcd, unless a variable or an argument says otherwise."""
    said = {each.get("DYN_DISCOVERY_BACKEND", each.get("DYN_STORE_KV", "etcd")) for each in environments}
    said |= {str(args.pop(flag)) for flag in ("discovery-backend", "store-kv") if flag in args}
    if said == {"file"}:
        return "file"
    if said != {"etcd"}:
        what = f"processes of one job find each other by etcd or file, not by {' and '.join(sorted(said))}"
        reader.located.add(("environment",), what)
    return "etcd"


@dataclass(frozen=True)
class _Infra:
    nats: bool = False
    max_payload_mb: int | None = None
    node: bool = False


def _infra(reader: Reader, schema: int) -> tuple[_Infra, list[Unsupported]]:
    """etcd and NATS: ``infra`` of the older layout, ``services`` of the newer one."""
    node = reader.take_flag("infra", "etcd_nats_dedicated_node") is True
    if reader.peek_text("infra", "placement", "node") in ("head", "dedicated"):
        node = node or reader.take("infra", "placement", "node") == "dedicated"
    payload = reader.take_count("infra", "nats_max_payload_mb")
    # The older layout's launcher starts NATS always; the newer one where something uses it.
    nats = schema < 2 or payload is not None
    services = reader.located.data.get("services")
    if not isinstance(services, list):
        return _Infra(nats, payload, node), []
    reader.take("services")
    left: list[Unsupported] = []
    for index, service in enumerate(services):
        kind = service.get("type", "generic") if isinstance(service, dict) else "generic"
        if kind not in ("etcd", "nats") or service.get("external"):
            why = (
                "only the processes of Dynamo are started"
                if kind not in ("etcd", "nats")
                else (f"each start has a {kind} of its own, so that it finds nothing of another one")
            )
            left.append(Unsupported(reader.located.where(("services", index)), service, why))
            continue
        enabled = service.get("enabled", True) is not False
        node = node or (_below(service, "placement", "node") == "dedicated" and enabled)
        if kind == "nats":
            nats = enabled
            size = _below(service, "options", "max_payload_mb")
            if size not in ({}, None) and not (isinstance(size, int) and not isinstance(size, bool) and size > 0):
                where = ("services", index, "options", "max_payload_mb")
                reader.located.add(where, f"must be a whole number of at least 1, not {shown(size)}")
            elif size is not None and size != {}:
                payload = size
        elif not enabled:
            what = "without etcd the processes of several nodes do not find each other"
            reader.located.add(("services", index), what, "leave it enabled")
    return _Infra(nats, payload, node), left


def _below(value: Mapping[str, Any], *path: str) -> Any:
    for key in path:
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return value


# ----------------------------------------------------------------------------------------------------------- releases


def _releases(reader: Reader, notes: list[str]) -> tuple[NamedRelease, ...]:
    """Releases that the recipe names: the one that it installs, what it states, then what its images are called."""
    named: list[NamedRelease] = []
    installs = reader.take_flag("dynamo", "install") is not False
    sources = [
        ("dynamo", "version"),
        ("dynamo", "wheel"),
        ("dynamo", "source", "pypi"),
        ("dynamo", "source", "wheel"),
    ]
    built: list[tuple[str, ...]] = [("dynamo", "hash"), ("dynamo", "top_of_tree"), ("dynamo", "cargo_patches")]
    built += [("dynamo", "source", key) for key in ("git", "rev", "sha", "patches")]
    given = [(path, value) for path in sources if (value := reader.take(*path)) is not None]
    revisions = [(path, value) for path in built if (value := reader.take(*path))]
    if installs and given:
        named += [NamedRelease(str(value), reader.origin(*path), True) for path, value in given]
        notes.append(f"the recipe installs Dynamo {given[0][1]} at its start: use an image that holds it")
    elif installs and revisions:
        shown_ = ", ".join(f"{path[-1]} {shown(value)}" for path, value in revisions)
        notes.append(f"the recipe builds Dynamo from source at its start ({shown_}): use an image that holds it")
    frameworks = reader.section("identity").get("frameworks")
    if isinstance(frameworks, dict):
        named += [
            NamedRelease(str(value), reader.origin("identity", "frameworks"))
            for name, value in frameworks.items()
            if str(name).lower().replace("_", "-") in ("dynamo", "ai-dynamo")
        ]
    for path in (("model", "container"), ("identity", "container", "image")):
        image = reader.peek_text(*path)
        if image and (release := release_in_image(image)):
            named.append(NamedRelease(release, f"{image}, {reader.origin(*path)}"))
    if not installs:
        named += [NamedRelease(str(value), reader.origin(*path)) for path, value in given]
    elif not given and not revisions and not named:
        named.append(NamedRelease(INSTALLED, f"srt-slurm's default where {reader.origin('dynamo')} names none", True))
    return tuple(dict.fromkeys(named))


def release_in_image(image: str) -> str | None:
    """Dynamo's release in the name of an image of Dynamo: ``tensorrtllm-runtime:1.1.1`` -> ``1.1.1``. One that has
    candidates (``dynamo-trtllm:1.3.0rc5``) is the engine's."""
    text = image.lower()
    if "dynamo" not in text and "tensorrtllm-runtime" not in text:
        return None
    name = text.rpartition("/")[2].removesuffix(".sqsh")
    found = re.search(r"(?:^|[^\w.])v?(\d+\.\d+\.\d+(?:[.-](?:post|dev)\.?\d*)?)(?!\.?\d|rc|\.rc)", name)
    return found[1] if found else None
