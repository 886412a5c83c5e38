"""What a recipe says, whichever tool it was written for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ratematch.engines.trtllm_serve.agreement import draft_tokens
from ratematch.engines.trtllm_serve.render import AUTH_KEY
from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.exchange.recipes.reader import Reader, Unsupported, is_count, shown
from ratematch.plan.deployment import Role
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.secret import masked


@dataclass(frozen=True)
class Servers:
    """``instances`` equal servers. ``config``: the worker YAML as it stands. ``origin``: where that was written."""

    role: Role
    instances: int
    mapping: Parallelism
    config: dict[str, Any]
    environment: dict[str, str]
    origin: str
    environment_origin: str
    count_origin: str

    @property
    def mtp(self) -> int:
        """Draft tokens a step, 0 without speculation."""
        tokens = draft_tokens(self.config)
        return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0 else 0

    @property
    def shape(self) -> str:
        return f"{self.instances}x {self.mapping.label}"


@dataclass(frozen=True)
class Recipe:
    """One deployment and the load it was run at.

    ``model``: path or name of the weights; ``repository``: where they were published; ``precision``: their format, as
    the recipe calls it. ``version``: of the engine,
    where the recipe itself names it; ``images``: names of its container images, the one it is started from first.
    ``combination``: the values of its ``sweep`` that make it, empty when there are none. ``gpu``: type of GPU,
    ``None`` when the file does not say. ``concurrency``: requests in flight over the whole deployment.
    ``requests_per_slot`` and ``warmup_per_slot``: requests as multiples of it. ``isl`` is ``None`` when the file
    names no load. ``origins``: where a value was written, by the name of the field. ``unsupported``: what has no
    counterpart; ``notes``: what a reader should know. ``dynamo``: what stands before the servers, where that is
    Dynamo; else they are ``trtllm-serve`` behind its own orchestrator.
    """

    name: str
    source: str
    kind: str
    model: str | None
    images: tuple[str, ...]
    gpu: str | None
    gpus_per_node: int
    servers: tuple[Servers, ...]
    isl: int | None
    osl: int | None
    osl_ratio: float
    concurrency: tuple[int, ...]
    requests_per_slot: float
    warmup_per_slot: float
    nodes: int
    orchestrator: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[Unsupported, ...] = ()
    notes: tuple[str, ...] = ()
    version: str | None = None
    repository: str | None = None
    combination: str = ""
    precision: str | None = None
    dynamo: DynamoStack | None = None

    @property
    def gpus(self) -> int:
        return sum(servers.instances * servers.mapping.gpus for servers in self.servers)

    @property
    def shape(self) -> str:
        """For people: ``1x DEP4 + 4x TEP8, MTP 3``."""
        mtp = max(servers.mtp for servers in self.servers)
        return " + ".join(servers.shape for servers in self.servers) + (f", MTP {mtp}" if mtp else "")


MOST_GPUS = 10_000
"""No server of any recipe has so many; a larger number is a mistake."""


def read_mapping(reader: Reader, path: Sequence[str], config: dict[str, Any]) -> Parallelism | None:
    """The parallelism of a worker YAML that stands at ``path``; ``None``, with problems noted, when it is not sound.

    What is not given has the engine's default: one way of each, and experts split by tensor (contract, section 3.1).
    """
    located, sizes = reader.located, {}
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"):
        size = config.get(name, 1)
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST_GPUS:
            located.add((*path, name), f"must be a whole number from 1 to {MOST_GPUS}, not {shown(size)}")
            return None
        sizes[name] = size
    tp = sizes["tensor_parallel_size"]
    ep, moe_tp = config.get("moe_expert_parallel_size"), config.get("moe_tensor_parallel_size")
    if not isinstance(ep, int) or isinstance(ep, bool) or ep < 1:
        ep = tp // moe_tp if isinstance(moe_tp, int) and moe_tp > 0 and tp % moe_tp == 0 else 1
    mapping = Parallelism(
        tp=tp,
        pp=sizes["pipeline_parallel_size"],
        cp=sizes["context_parallel_size"],
        ep=ep,
        attention_dp=config.get("enable_attention_dp") is True,
    )
    problems = mapping.problems()
    for problem in problems:
        located.add((*path, "moe_expert_parallel_size"), problem)
    return None if problems else mapping


def read_environment(reader: Reader, path: Sequence[str], given: dict[str, Any]) -> dict[str, str]:
    """Environment variables as text. A bare ``yes`` is a truth value in YAML, so it is refused, not guessed. Secrets
    are not copied: they are taken from the environment where the sweep is started."""
    environment: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, bool) or value is None or isinstance(value, (dict, list)):
            what = f"the value of an environment variable must be text, and YAML reads this as {value!r}"
            reader.located.add((*path, name), what, "put it in quotes")
        else:
            environment[str(name)] = str(value)
    return masked(environment)


def without_keys_of_a_start(recipe: Recipe) -> Recipe:
    """Without the secret of one start of its servers (``internal_request_auth_key``), and a note of it."""
    bare = tuple(
        replace(one, config={key: value for key, value in one.config.items() if key != AUTH_KEY})
        for one in recipe.servers
    )
    if bare == recipe.servers:
        return recipe
    note = f"{AUTH_KEY} is a secret and is not copied: servers take each other's requests without one, with a warning"
    return replace(recipe, servers=bare, notes=(*recipe.notes, note))


def nodes_for(instances: int, gpus: int, gpus_per_node: int) -> int:
    """Nodes that ``instances`` servers of ``gpus`` GPUs fill when no server straddles nodes it does not fill."""
    if gpus > gpus_per_node:
        return instances * -(-gpus // gpus_per_node)
    return -(-instances // (gpus_per_node // gpus))


def read_ladder(reader: Reader, *path: str) -> tuple[int, ...]:
    """Concurrencies: a list, one number, or text with any of ``x``, comma and blanks between the numbers."""
    value = reader.take(*path)
    if value is None:
        return ()
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        parts = value.lower().replace("x", " ").replace(",", " ").split()
    ladder: list[int] = []
    for part in parts:
        text = shown(part) if isinstance(part, int) else str(part).strip()
        if not is_count(text) or int(text) < 1 or isinstance(part, bool):
            reader.located.add(path, f"{shown(value)} is no list of concurrencies", 'write [1, 4, 16] or "1x4x16"')
            return ()
        ladder.append(int(text))
    return tuple(dict.fromkeys(ladder))


def unknown_keys(config: dict[str, Any], rules: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of a worker YAML that stand in no rule."""
    unknown: list[str] = []
    for name, value in config.items():
        rule = rules.get(name)
        if rule is None:
            unknown.append(f"{prefix}{name}")
        elif isinstance(value, dict) and "keys" in rule:
            unknown += unknown_keys(value, rule["keys"], f"{prefix}{name}.")
    return unknown


def version_in_image(image: str) -> str | None:
    """The version in the name of a TensorRT-LLM image, as ``tensorrt-llm/release:1.3.0rc11`` or ``trtllm-1.3.sqsh``;
    runtimes of Dynamo carry Dynamo's version, which says nothing of the engine's."""
    text = image.lower()
    release = re.search(r"tensorrt[-_]?llm[-_/+#]release[:+_-]v?(\d+\.\d+[\w.]*)", text)
    if release is None and "dynamo" not in text:
        release = re.search(r"(?:tensorrt|trt)[-_]?llm[-_/+#:]v?(\d+\.\d+[\w.]*)", text)
    return release[1].removesuffix(".sqsh") if release else None
