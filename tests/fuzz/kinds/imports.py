"""Results of other tools, spoilt: a value of another kind at any place, keys gone, bytes changed."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.exchange import foreign_files, foreign_runs
from tests.fuzz.chance import walk
from tests.fuzz.search import Ending, Kind, type_in

DOCUMENTS: tuple[Any, ...] = (
    foreign_files.AIPERF_SUMMARY,
    foreign_files.TRTLLM_SERVING,
    foreign_files.SA_BENCH,
    foreign_files.VLLM,
    foreign_files.INFERENCEX_DISAGG,
    foreign_files.INFERENCEX_AGG,
    [foreign_files.INFERENCEX_AGG, foreign_files.INFERENCEX_DISAGG],
)
TEXTS = (
    foreign_files.AIC_DISAGG,
    foreign_files.AIC_AGG,
    foreign_runs.AIC_CELL_HEAD + foreign_runs.AIC_CELL + foreign_runs.AIC_PLAIN,
    foreign_runs.AIC_EPD_HEAD + foreign_runs.AIC_EPD,
)
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x", "nan", "1e400", "9" * 5000, "²", "../../x", "\x00", "\x1b[31mRED"),
    *("<script>", "日本", [], {}, [[]], [1, "x", None], {"a": 1}, {"avg": "x"}, [[1, 2], [3]], "2xDEP4", "gb200"),
    *("A" * 5000, "=cmd|' /C calc'!A0"),
)
BYTES = (b"{", b"}", b"[", b",", b'"', b"\n", b"\x00", b"NaN", b"1e999", b"\xff", b"[" * 20_000, b"\\ud800")
ASKED = (
    *("--agg", "DEP8", "--mtp", "0", "--concurrency", "64", "--model", "deepseek-r1", "--gpu", "h200"),
    *("--engine", "trtllm-serve/1.2", "--real", "--workload", "1024/64"),
)


def spoil(document: Any, rng: random.Random) -> Any:
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        places = list(walk(document, 5))
        if not places:
            break
        container, key = rng.choice(places)
        if isinstance(container, dict) and rng.random() < 0.15:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(WRONG))
    return document


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 2, 4])):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0:
                content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
            case 1:
                content = content[:place] + content[place + rng.choice([1, 5, 100]) :]
            case 2:
                content = content[:place]
            case _:
                content = content[:place] + rng.choice(BYTES) + content[place:]
    return content


def whole_files() -> Iterator[tuple[int, bytes]]:
    """Each file that this kind spoils, whole, with 0 for JSON and 2 for CSV before it."""
    yield from ((0, json.dumps(document).encode()) for document in DOCUMENTS)
    yield from ((2, text.encode()) for text in TEXTS)


def make(rng: random.Random) -> tuple[str, bytes]:
    if rng.random() < 0.15:
        return "pareto.csv", spoil_bytes(rng.choice(TEXTS).encode(), rng)
    document = rng.choice(DOCUMENTS)
    if rng.random() < 0.75:
        content = json.dumps(spoil(document, rng)).encode("utf-8", "surrogatepass")
    else:
        content = spoil_bytes(json.dumps(document).encode(), rng)
    return rng.choice(["result.json", "result.json", "profile_export.jsonl"]), content


def run(given: tuple[str, bytes], folder: Path) -> Ending:
    name, content = given
    shutil.rmtree(folder / "into", ignore_errors=True)
    (folder / name).write_bytes(content)
    if name.endswith("csv") or len(content) % 3 == 0:
        return type_in("import", "results", str(folder / name), *ASKED, "-o", str(folder / "rates.csv"))
    return type_in("import", "results", str(folder / name), *ASKED, "--into", str(folder / "into"))


KIND = Kind("imports", make, run, few=60)
