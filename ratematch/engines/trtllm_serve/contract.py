"""The configuration files of ``trtllm-serve`` as data, and what is wrong with a given one.

The keys, types, choices and defaults stand in ``contract-worker.yaml`` and ``contract-orchestrator.yaml``; rules that
span several keys are functions here. The renderer asks before a launch, the emulator at start, so both refuse the
same files for the same reasons. All checks are pure; each problem is one line: where, what, and what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml

RELEASE_LINES = ("1.2", "1.3", "main")

Rule = dict[str, Any]


def release_line(version: str) -> str:
    """The release line of a version: ``1.2.1`` -> ``1.2``, ``1.3.0rc17`` -> ``1.3``, later -> ``main``.

    Raises:
        ValueError: a version older than 1.2 or not a version.
    """
    text = version.strip().removeprefix("v")
    if text == "main":
        return "main"
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    if major.isdigit() and minor.isdigit():
        number = (int(major), int(minor))
        if number in ((1, 2), (1, 3)):
            return f"1.{number[1]}"
        if number > (1, 3):
            return "main"
    raise ValueError(f"TensorRT-LLM version {version!r} is not known: use {', '.join(RELEASE_LINES)}")


@cache
def _load(name: str) -> Rule:
    text = resources.files(__package__).joinpath(f"contract-{name}.yaml").read_text(encoding="utf-8")
    content: Rule = yaml.safe_load(text)
    return content


def _in_line(keys: Rule, line: str) -> Rule:
    """The rules that hold in one release line, differences applied. 1.3 is like main unless told otherwise."""
    found: Rule = {}
    for name, rule in keys.items():
        only, differences = rule.get("only", RELEASE_LINES), rule.get("lines", {})
        if line in only or (line == "1.3" and "main" in only):
            like = "main" if line == "1.3" and line not in differences else line
            found[name] = {**rule, **differences.get(like, {})}
    return found


def _deep_in_line(keys: Rule, line: str) -> Rule:
    """Like :func:`_in_line`, nested maps included."""
    return {
        name: {**rule, "keys": _deep_in_line(rule["keys"], line)} if "keys" in rule else rule
        for name, rule in _in_line(keys, line).items()
    }


def worker_keys(version: str) -> Rule:
    """Worker YAML keys of a version: name -> rule (``type``, ``default``, ``choices``, ``keys``, ...).

    Raises:
        ValueError: the version is not known.
    """
    return _deep_in_line(_load("worker"), release_line(version))


def orchestrator_keys(version: str) -> Rule:
    """Orchestrator YAML keys of a version, without the worker keys that may stand beside them.

    Raises:
        ValueError: the version is not known.
    """
    keys = _deep_in_line(_load("orchestrator"), release_line(version))
    return {name: rule for name, rule in keys.items() if name not in ("server_section", "routers")}


def router_types(version: str) -> list[str]:
    """Router types of a version.

    Raises:
        ValueError: the version is not known.
    """
    return list(_in_line(_load("orchestrator")["routers"]["keys"], release_line(version)))


# ------------------------------------------------------------------------------------------------ single values

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "list": (list,),
    "map": (dict,),
}


def _is(value: Any, name: str) -> bool:
    if name == "any":
        return True
    if isinstance(value, bool):
        return name == "bool"
    return isinstance(value, _TYPES[name])


def _check_value(where: str, value: Any, rule: Rule, line: str) -> Iterator[str]:
    kinds = str(rule["type"]).split("|")
    if value is None:
        if rule.get("default") is not None and not rule.get("none"):
            yield f"{where}: null is not valid; the default is {rule['default']!r}"
        return
    if not any(_is(value, kind) for kind in kinds):
        yield f"{where}: {value!r} is no {' or '.join(kinds)}"
        return
    choices = rule.get("choices")
    if choices and isinstance(value, str):
        found = value.upper() if rule.get("any_case") else value
        if found not in {choice.upper() if rule.get("any_case") else choice for choice in choices}:
            yield f"{where}: {value!r} is not valid in {line}; choose from {', '.join(choices)}"
    items = rule.get("items")
    if items and isinstance(value, list):
        for item in value:
            if (not _is(item, items)) if isinstance(items, str) else item not in items:
                wanted = items if isinstance(items, str) else ", ".join(items)
                yield f"{where}: {item!r} in the list is not valid; each must be of {wanted}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "above" in rule and value <= rule["above"]:
            yield f"{where}: {value} must be greater than {rule['above']}"
        if ("min" in rule and value < rule["min"]) or ("max" in rule and value > rule["max"]):
            low, high = rule.get("min"), rule.get("max")
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            yield f"{where}: {value} must be {bounds}"
    if isinstance(value, dict) and "keys" in rule:
        yield from _check_map(where, value, rule["keys"], line)


def _check_map(where: str, config: dict[str, Any], all_keys: Rule, line: str) -> Iterator[str]:
    """Problems of one map. ``where`` is empty at the top level."""
    keys = _in_line(all_keys, line)
    prefix = f"{where}." if where else ""
    for name, value in config.items():
        if name in keys:
            yield from _check_value(f"{prefix}{name}", value, keys[name], line)
        else:
            yield f"{prefix}{name}: {_unknown(str(name), where, all_keys, line)}"


def _homes(keys: Rule, line: str, where: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a release line with the place it lives at: ``("dtype", "kv_cache_config.dtype")``."""
    for name, rule in _in_line(keys, line).items():
        path = f"{where}.{name}" if where else name
        yield name, path
        if "keys" in rule:
            yield from _homes(rule["keys"], line, path)


def _unknown(name: str, where: str, siblings: Rule, line: str) -> str:
    text = f"unknown key in {line}"
    if name in siblings:
        return f"{text}; it exists only in {', '.join(siblings[name]['only'])}"
    homes = list(_homes(_load("worker"), line))
    exact = [path for key, path in homes if key == name and path.rpartition(".")[0] != where]
    if exact:
        return f"{text}; it belongs at {' or '.join(exact)}"
    here = list(_in_line(siblings, line))
    close = difflib.get_close_matches(name, here, n=1)
    if close:
        return f"{text}; did you mean {where + '.' if where else ''}{close[0]}?"
    elsewhere = dict(homes)
    close = difflib.get_close_matches(name, list(elsewhere), n=1, cutoff=0.75)
    if close:
        return f"{text}; did you mean {elsewhere[close[0]]}?"
    if where:
        return f"{text}; {where} takes {', '.join(here) or 'no keys'}"
    return f"{text}; it is no key of the YAML file of this version"


# ------------------------------------------------------------------------------------------------ worker rules


def check_worker_config(config: dict[str, Any], version: str) -> list[str]:
    """What is wrong with a worker YAML for a version; empty when the server would take it.

    Raises:
        ValueError: the version is not known.
    """
    line = release_line(version)
    found = list(_check_map("", config, _load("worker"), line))
    if not found:
        for rule in (_check_parallelism, _check_attention_dp, _check_eplb, _check_cuda_graphs, _check_speculation):
            found += rule(config, line)
    return found


def _size(config: dict[str, Any], name: str) -> int | None:
    """An expert-parallel size; ``None`` when it is left to the engine (null or -1)."""
    value = config.get(name)
    return None if value is None or value < 1 else int(value)


def _check_parallelism(config: dict[str, Any], line: str) -> Iterator[str]:
    tp = config.get("tensor_parallel_size", 1)
    ep, moe_tp = _size(config, "moe_expert_parallel_size"), _size(config, "moe_tensor_parallel_size")
    cluster = _size(config, "moe_cluster_parallel_size") or 1
    cp = config.get("context_parallel_size", 1)
    if ep is not None and tp % ep and (tp * cp) % ep:
        divisors = ", ".join(str(n) for n in range(1, tp + 1) if tp % n == 0)
        yield (
            f"moe_expert_parallel_size: {ep} does not divide tensor_parallel_size {tp}; valid are {divisors} "
            "(tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size)"
        )
    elif ep is not None and moe_tp is not None and moe_tp * ep * cluster not in (tp, tp * cp):
        yield (
            f"moe_tensor_parallel_size: tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size, but "
            f"{tp} != {moe_tp} * {ep} * {cluster}"
        )
    elif ep is None and moe_tp is not None and tp % moe_tp:
        yield f"moe_tensor_parallel_size: {moe_tp} does not divide tensor_parallel_size {tp}"
    helix = config.get("cp_config") or {}
    block = (config.get("kv_cache_config") or {}).get("tokens_per_block", 32)
    if str(helix.get("cp_type", "")).upper() == "HELIX" and helix.get("tokens_per_block", block) != block:
        yield (
            f"cp_config.tokens_per_block: {helix['tokens_per_block']} must equal "
            f"kv_cache_config.tokens_per_block {block}"
        )


def _check_attention_dp(config: dict[str, Any], line: str) -> Iterator[str]:
    block = config.get("attention_dp_config") or {}
    if block.get("enable_balance"):
        for name in ("timeout_iters", "batching_wait_iters"):
            if block.get(name, 0) < 0:
                yield f"attention_dp_config.{name}: {block[name]} must be at least 0 when enable_balance is true"


def _check_eplb(config: dict[str, Any], line: str) -> Iterator[str]:
    block = (config.get("moe_config") or {}).get("load_balancer")
    if not isinstance(block, dict):
        return
    slots, ep = block.get("num_slots"), _size(config, "moe_expert_parallel_size") or 1
    if slots is not None and slots % ep:
        yield f"moe_config.load_balancer.num_slots: {slots} is no multiple of moe_expert_parallel_size {ep}"


def _check_cuda_graphs(config: dict[str, Any], line: str) -> Iterator[str]:
    block = config.get("cuda_graph_config") or {}
    sizes, most = block.get("batch_sizes"), block.get("max_batch_size") or 0
    if sizes is None:
        return
    if not sizes or any(size < 1 for size in sizes):
        yield "cuda_graph_config.batch_sizes: must hold at least one size, each at least 1"
    elif most and most != max(sizes):
        yield (
            f"cuda_graph_config.max_batch_size: {most} must equal the largest of batch_sizes {max(sizes)}; "
            "give only one of them"
        )


def _check_speculation(config: dict[str, Any], line: str) -> Iterator[str]:
    block = config.get("speculative_config")
    if not block:
        return
    where = "speculative_config"
    kind = block.get("decoding_type")
    if kind is None:
        yield f"{where}.decoding_type: is required; MTP for DeepSeek-style drafts"
        return
    for name, rule in _in_line(_load("worker")[where]["keys"], line).items():
        if name in block and kind not in rule.get("types", (kind,)):
            yield f"{where}.{name}: is no key of decoding_type {kind}; it belongs to {', '.join(rule['types'])}"
    if kind == "MTP":
        old, new = block.get("num_nextn_predict_layers"), block.get("max_draft_len")
        if line == "1.2" and new is not None and old is None:
            yield f"{where}.max_draft_len: MTP takes its length from num_nextn_predict_layers in {line}"
        elif old is not None and new is not None and old != new:
            yield f"{where}.max_draft_len: {new} contradicts num_nextn_predict_layers {old}; give only one of them"
    if kind in ("Eagle", "Eagle3"):
        if not block.get("max_draft_len"):
            yield f"{where}.max_draft_len: must be greater than 0 for {kind}"
        if not (block.get("speculative_model") or block.get("speculative_model_dir")):
            yield f"{where}.speculative_model: is required for {kind}"


# ------------------------------------------------------------------------------------------------ orchestrator rules

_SECTIONS = (("context_servers", "context", "ctx"), ("generation_servers", "generation", "gen"))


def check_orchestrator_config(config: dict[str, Any], version: str) -> list[str]:
    """What is wrong with an orchestrator YAML for a version; empty when the server would take it.

    Raises:
        ValueError: the version is not known.
    """
    line = release_line(version)
    own, worker = _load("orchestrator"), _load("worker")
    top = {**worker, **{name: rule for name, rule in own.items() if name not in ("server_section", "routers")}}
    cluster = config.get("disagg_cluster")
    rest, found = config, list[str]()
    if isinstance(cluster, dict):  # unknown keys in it have a message of their own
        rest = {name: value for name, value in config.items() if name != "disagg_cluster"}
        found += _check_cluster(cluster, line)
    found += _check_map("", rest, top, line)
    if found:
        return found
    for section, role, short in _SECTIONS:
        found += _check_section(config, section, role, short, line)
    found += _check_shared_urls(config)
    if config.get("disagg_cluster"):
        found += [
            f"{section}.urls: must be absent when disagg_cluster is given; workers register themselves"
            for section, _, _ in _SECTIONS
            if (config.get(section) or {}).get("urls")
        ]
    if config.get("conditional_disagg_config") is not None:
        router = (config.get("generation_servers") or {}).get("router") or {}
        if str(router.get("type", "")).lower() != "kv_cache_aware":
            found.append(
                "conditional_disagg_config: Generation router must be kv_cache_aware; "
                "set generation_servers.router.type"
            )
    return found


def _check_cluster(block: dict[str, Any], line: str) -> Iterator[str]:
    keys = _load("orchestrator")["disagg_cluster"]["keys"]
    for name, value in block.items():
        if name not in keys:
            close = difflib.get_close_matches(str(name), list(keys), n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(keys)}"
            yield f"disagg_cluster.{name}: Key {name} not found in DisaggClusterConfig{hint}"
        else:
            yield from _check_value(f"disagg_cluster.{name}", value, keys[name], line)


def _check_section(config: dict[str, Any], section: str, role: str, short: str, line: str) -> Iterator[str]:
    own, worker = _load("orchestrator"), _load("worker")
    block = config.get(section) or {}
    keys = {**worker, **own["server_section"]["keys"]}
    problems = list(_check_map(section, block, keys, line))
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
        yield from _check_router(f"{section}.router", router, line)


def _check_router(where: str, router: dict[str, Any], line: str) -> Iterator[str]:
    kinds = _in_line(_load("orchestrator")["routers"]["keys"], line)
    name = str(router.get("type", "round_robin"))
    if name.lower() not in kinds:
        yield f"{where}.type: Unsupported router type: {name}. Supported types are: {list(kinds)}"
        return
    given = {key: value for key, value in router.items() if key not in ("type", "args")}
    keys = kinds[name.lower()]["keys"]
    for key, value in given.items():
        known = _in_line(keys, line)
        if key in known:
            yield from _check_value(f"{where}.{key}", value, known[key], line)
        else:
            yield f"{where}.{key}: unknown key in {line}; {name} takes {', '.join(known) or 'no arguments'}"


def _check_shared_urls(config: dict[str, Any]) -> Iterator[str]:
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
