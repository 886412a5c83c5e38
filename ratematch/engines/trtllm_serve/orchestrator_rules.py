"""What is wrong with an orchestrator YAML: its keys one by one, its two sections of servers, and their routers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.contract import check_map, check_value, in_version, load_keys, orchestrator_keys
from ratematch.engines.trtllm_serve.release import Version, read_version

_SECTIONS = (("context_servers", "context", "ctx"), ("generation_servers", "generation", "gen"))


def check_orchestrator_config(config: Config, version: str) -> list[str]:
    """What is wrong with an orchestrator YAML for a version; empty when the server would take it.

    Raises:
        ValueError: the version is not known.
    """
    release = read_version(version)
    cluster = config.get("disagg_cluster")
    rest, problems = config, list[str]()
    if isinstance(cluster, dict):  # unknown keys in it have a message of their own
        rest = {name: value for name, value in config.items() if name != "disagg_cluster"}
        problems += _check_cluster(cluster, release)
    problems += check_map("", rest, orchestrator_keys("top"), release)
    if problems:
        return problems
    for section, role, short in _SECTIONS:
        problems += _check_section(config, section, role, short, release)
    problems += _check_shared_urls(config)
    problems += _check_coordinator(config)
    if config.get("disagg_cluster"):
        problems += [
            f"{section}.urls: must be absent when disagg_cluster is given; workers register themselves"
            for section, _, _ in _SECTIONS
            if (config.get(section) or {}).get("urls")
        ]
    if config.get("conditional_disagg_config") is not None:
        router = (config.get("generation_servers") or {}).get("router") or {}
        if str(router.get("type", "")).lower() != "kv_cache_aware":
            problems.append(
                "conditional_disagg_config: Generation router must be kv_cache_aware; "
                "set generation_servers.router.type"
            )
    return problems


def _check_cluster(block: Config, version: Version) -> Iterator[str]:
    keys = load_keys("orchestrator")["disagg_cluster"]["keys"]
    for name, value in block.items():
        if name not in keys:
            close = difflib.get_close_matches(str(name), list(keys), n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(keys)}"
            yield f"disagg_cluster.{name}: Key {name} not found in DisaggClusterConfig{hint}"
        else:
            yield from check_value(f"disagg_cluster.{name}", value, keys[name], version)


def _check_section(config: Config, section: str, role: str, short: str, version: Version) -> Iterator[str]:
    worker = load_keys("worker")
    block = config.get(section) or {}
    problems = list(check_map(section, block, orchestrator_keys("section"), version))
    yield from problems
    if problems:
        return
    for name, value in block.items():
        if name in worker and name in config and config[name] != value:
            yield (
                f"{section}.{name}: Parameter {name} is specified both in the top-level and in the '{section}' "
                "section, but with different values"
            )
    urls = block.get("urls")
    instances = block.get("num_instances", 1)
    if urls is not None:
        if len(urls) != instances:
            yield (
                f"{section}.urls: Number of hostnames ({len(urls)}) should be equal to the number of instances "
                f"({instances})"
            )
        for url in urls:
            host, _, port = url.partition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                yield f"{section}.urls: {url!r} is no host:port (without http://, exactly one colon)"
        twice = sorted({url for url in urls if urls.count(url) > 1})
        if twice:
            yield f"{section}.urls: Duplicated {short} server config: {', '.join(twice)}"
    elif block and instances and not config.get("disagg_cluster"):
        yield f"{section}.urls: is required: one host:port for each of the {instances} {role} servers"
    router = block.get("router")
    if router is not None:
        yield from _check_router(f"{section}.router", router, version)


def _check_router(where: str, router: Config, version: Version) -> Iterator[str]:
    kinds = in_version(load_keys("orchestrator")["routers"]["keys"], version)
    name = str(router.get("type", "round_robin"))
    if name.lower() not in kinds:
        yield f"{where}.type: Unsupported router type: {name}. Supported types are: {list(kinds)}"
        return
    given = {key: value for key, value in router.items() if key not in ("type", "args")}
    keys = kinds[name.lower()]["keys"]
    for key, value in given.items():
        known = in_version(keys, version)
        if key in known:
            yield from check_value(f"{where}.{key}", value, known[key], version)
        else:
            yield f"{where}.{key}: unknown key in {version.text}; {name} takes {', '.join(known) or 'no arguments'}"


def _check_shared_urls(config: Config) -> Iterator[str]:
    """One URL may serve both roles only when both sections describe the same server."""
    ctx, gen = (config.get(section) or {} for section, _, _ in _SECTIONS)
    shared = sorted(set(ctx.get("urls") or ()) & set(gen.get("urls") or ()))
    args = [
        {key: value for key, value in block.items() if key not in ("num_instances", "urls", "router")}
        for block in (ctx, gen)
    ]
    if shared and args[0] != args[1]:
        yield (
            f"generation_servers.urls: {', '.join(shared)} is a context server too, "
            "with different arguments in the two sections"
        )


_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def _check_coordinator(config: Config) -> Iterator[str]:
    """Several orchestrator processes meet at the port before their own, on their machine, where nothing else names
    another place for it."""
    workers = config.get("num_workers")
    if not isinstance(workers, int) or workers < 2 or config.get("disagg_coordinator_url"):
        return
    host, port = str(config.get("hostname", "localhost")), config.get("port", 8000)
    meet = port - 1
    remedy = "give the orchestrator another port, or set disagg_coordinator_url"
    if meet < 1:
        yield f"port: {port} leaves no port before it, where the {workers} processes of num_workers meet: {remedy}"
    for section, _, short in _SECTIONS:
        for url in (config.get(section) or {}).get("urls") or ():
            server, _, taken = url.partition(":")
            if taken == str(meet) and _is_one_machine(host, server):
                yield (
                    f"{section}.urls: {url} is where the {workers} processes of num_workers meet, the port before "
                    f"the orchestrator's {port}, and a {short} server's: {remedy}"
                )


def _is_one_machine(one: str, other: str) -> bool:
    return one == other or (one in _THIS_MACHINE and other in _THIS_MACHINE)
