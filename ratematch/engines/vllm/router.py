"""What orchestrates prefill and decode servers: ratematch's own proxy, or a router that the sweep file names.

``router: {type: command, args: {argv: [...], health: /health}}`` starts any program. Its words may hold ``{host}``
and ``{port}``, where it has to listen, and ``{prefill_url}``, ``{prefill_host}``, ``{prefill_port}`` or the same of
``decode``: such a word stands once for each server, and so does a list of words as a whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratematch.plan.deployment import Deployment, Role
from ratematch.plan.placement import Instance, Placement

PROXY = (sys.executable, "-m", "ratematch.engines.vllm.proxy")

ARGS = ("argv", "health")

SIDES: dict[str, Role] = {"prefill": "ctx", "decode": "gen"}

_FIELD = re.compile(r"\{(\w+)\}")


def router_argv(deployment: Deployment, placement: Placement, ready_s: float) -> tuple[str, ...]:
    """The command that listens on the orchestrator's host and port. What :func:`check_router` refuses stays as it
    is."""
    if deployment.router == "command":
        argv = deployment.router_args.get("argv")
        return tuple(_filled(argv if isinstance(argv, list) else [], placement))
    words = [*PROXY, "--host", str(placement.orchestrator_host), "--port", str(placement.orchestrator_port)]
    for side, role in SIDES.items():
        for instance in _of(placement, role):
            words += [f"--{side}", f"http://{instance.host}:{instance.port}"]
    return (*words, "--ready-timeout", f"{ready_s:g}")


def health_path(deployment: Deployment) -> str:
    """Where it answers 200 once it is ready."""
    return str(deployment.router_args.get("health", "/health")) if deployment.router == "command" else "/health"


def check_router(deployment: Deployment) -> Iterator[str]:
    """What is wrong with a router that is given by its command, or with arguments that nobody reads."""
    if deployment.orchestrator:
        keys = ", ".join(deployment.orchestrator)
        yield f"orchestrator: {keys}: the proxy has no file; give a router of type command instead"
    if deployment.router != "command":
        if deployment.router_args:
            yield f"router.args: {', '.join(deployment.router_args)}: {deployment.router} takes none"
        return
    argv = deployment.router_args.get("argv")
    words = list(_words(argv))
    if not words or not all(isinstance(word, str) for word in words):
        yield "router.args.argv: must be a list of words, as the router is started"
        return
    known = {"host", "port", *(f"{side}_{what}" for side in SIDES for what in ("url", "host", "port"))}
    named = {name for word in words for name in _FIELD.findall(word)}
    if unknown := sorted(named - known):
        yield f"router.args.argv: unknown {{{unknown[0]}}}; known: {', '.join(sorted(known))}"
    if "port" not in named:
        yield "router.args.argv: no word holds {port}, where the router has to listen"
    if others := sorted(set(deployment.router_args) - set(ARGS)):
        yield f"router.args: unknown {', '.join(others)}; known: {', '.join(ARGS)}"


def _words(argv: Any) -> Iterator[Any]:
    for word in argv if isinstance(argv, list) else ():
        if isinstance(word, list):
            yield from word
        else:
            yield word


def _of(placement: Placement, role: Role) -> list[Instance]:
    return [instance for instance in placement.instances if instance.role == role]


def _filled(argv: Sequence[Any], placement: Placement) -> Iterator[str]:
    own = {"host": str(placement.orchestrator_host), "port": str(placement.orchestrator_port)}
    for part in argv:
        words = part if isinstance(part, list) else [part]
        for values in _repeats(words, placement):
            for word in words:
                yield _fill(str(word), {**own, **values})


def _fill(word: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: values.get(match[1], match[0]), word)


def _repeats(words: Sequence[str], placement: Placement) -> list[dict[str, str]]:
    """The values of each time that ``words`` stand: once, or once for each server of the side that they name."""
    named = {name for word in words for name in _FIELD.findall(str(word))}
    for side, role in SIDES.items():
        if any(name.startswith(f"{side}_") for name in named):
            return [
                {
                    f"{side}_url": f"http://{instance.host}:{instance.port}",
                    f"{side}_host": instance.host,
                    f"{side}_port": str(instance.port),
                }
                for instance in _of(placement, role)
            ]
    return [{}]
