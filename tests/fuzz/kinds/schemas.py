"""What an image says that its servers take, spoilt: values changed for others, keys taken away, moved and doubled."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ratematch.engines.trtllm_serve.schema.answer import document_of, read_answer
from ratematch.engines.trtllm_serve.schema.files import judge_orchestrator, judge_worker
from ratematch.engines.trtllm_serve.schema.inside import MARK
from tests.engines.test_installed_schema import LAUNCH, NEWEST, PACKAGES, output_of
from tests.fuzz.chance import TEXTS, one_of, walk
from tests.fuzz.search import Ending, Failure, Kind

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, 1e308, "", "x", [], {}, [[]], [None], {"": {}}),
    *("#/$defs/KvCacheConfig", "#/$defs/", "#", "integer", "object", ["null", "string"], {"type": "object"}),
    *({"$ref": "#/$defs/TorchLlmArgs"}, {"anyOf": []}, {"anyOf": [{}, {"anyOf": [{}]}]}, {"enum": []}, {"const": 1}),
)


@cache
def answers() -> tuple[str, ...]:
    return tuple(output_of(PACKAGES / layout).rpartition(MARK)[2] for layout in ("v1_2", "v1_4"))


@cache
def configs() -> tuple[tuple[bool, dict[str, Any]], ...]:
    """Files of launches, and whether they are an orchestrator's."""
    files = sorted(LAUNCH.glob(f"*-mtp3/{NEWEST}/*.yaml"))
    return tuple((file.stem == "orchestrator", yaml.safe_load(file.read_text())) for file in files)


def make(rng: random.Random) -> str:
    text = rng.choice(answers())
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        return text[:at] + one_of(rng, TEXTS) + text[at + rng.randrange(9) :]
    content = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place, key = rng.choice(list(walk(content)))
        other, name = rng.choice(list(walk(content)))
        match rng.randrange(4):
            case 0:
                place[key] = json.loads(json.dumps(rng.choice(ODD)))  # no two places share one
            case 1:
                place[key] = one_of(rng, TEXTS)
            case 2:
                place[key] = json.loads(json.dumps(other[name]))
            case 3:
                del place[key]
    return json.dumps(content)


def run(given: str, folder: Path) -> Ending:
    try:
        installed = read_answer(MARK + given, "image")
        document_of(installed)
    except ValueError as error:
        if "\n" in str(error) or len(str(error)) > 1_000:
            raise Failure(f"no short line: {str(error)[:200]!r}") from error
        return Ending("refused", str(error))
    said: list[str] = []
    for of_orchestrator, config in configs():
        judged = (judge_orchestrator if of_orchestrator else judge_worker)(config, NEWEST, installed)
        said += [*judged.refusals, *judged.doubts]
    if long := [line for line in said if "\n" in line or len(line) > 5_000]:
        raise Failure(f"no short line: {long[0][:200]!r}")
    return Ending("ok", "\n".join(dict.fromkeys(said))[:10_000])


KIND = Kind("schemas", make, run, few=25)
