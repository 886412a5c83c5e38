"""Recipes and cluster files of other tools, spoilt line by line."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

from tests.exchange import invented
from tests.exchange.test_srtcluster import FULL
from tests.fuzz.chance import YAML_VALUES, spoil_lines
from tests.fuzz.search import Ending, Kind, type_in

DYNAMO = {
    "frontend": {
        "enable_multiple_frontends": True,
        "num_additional_frontends": 1,
        "args": {"router-mode": "kv", "router-temperature": 0.5, "no-kv-events": True, "migration-limit": 3},
        "env": {"DYN_LOG": "warn", "DYN_NAMESPACE": "mine", "CONC": 4},
    },
    "dynamo": {"install": True, "version": "1.1.1", "request_plane": "nats", "event_plane": "zmq"},
    "environment": {"DYN_DISCOVERY_BACKEND": "etcd", "A": "1"},
}
INFRA: dict[int, dict[str, object]] = {
    1: {"infra": {"etcd_nats_dedicated_node": True, "nats_max_payload_mb": 24}},
    2: {
        "services": [
            {"name": "nats", "type": "nats", "options": {"max_payload_mb": 24}},
            {"name": "etcd", "type": "etcd"},
        ]
    },
}


@cache
def texts() -> tuple[str, ...]:
    """Recipes in both layouts of srt-slurm, a TensorRT-LLM config, an srtslurm.yaml."""
    recipes = []
    for shape in invented.SHAPES[:3]:
        ctx, gen = invented.usual_pair(shape[1], shape[3])
        recipes += [invented.to_text(invented.srt_recipe(shape, ctx, gen, schema=schema)) for schema in (1, 2)]
    ctx, gen = invented.usual_pair("DEP4", "TEP8")
    for schema in (1, 2):
        recipe = invented.srt_recipe(invented.SHAPES[0], ctx, gen, schema=schema, frontend=None)
        recipes.append(invented.to_text({**recipe, **DYNAMO, **INFRA[schema]}))
    return (*recipes, invented.to_text(invented.trtllm_config(ctx, gen)), FULL)


@cache
def keys() -> tuple[str, ...]:
    return tuple(sorted({match for text in texts() for match in re.findall(r"^ *([\w.\-]+):", text, re.MULTILINE)}))


def make(rng: random.Random) -> tuple[str, str]:
    text = rng.choice(texts())
    return ("cluster" if text == FULL else "recipe"), spoil_lines(rng, text, keys(), YAML_VALUES)


def run(given: tuple[str, str], folder: Path) -> Ending:
    kind, text = given
    file = folder / "given.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return type_in("import", kind, str(file))


KIND = Kind("recipes", make, run, few=40)
