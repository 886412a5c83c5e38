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


@cache
def texts() -> tuple[str, ...]:
    """Recipes in both layouts of srt-slurm, a TensorRT-LLM config, an srtslurm.yaml."""
    recipes = []
    for shape in invented.SHAPES[:3]:
        ctx, gen = invented.usual_pair(shape[1], shape[3])
        recipes += [invented.to_text(invented.srt_recipe(shape, ctx, gen, schema=schema)) for schema in (1, 2)]
    ctx, gen = invented.usual_pair("DEP4", "TEP8")
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
