"""Tables of rates and the options of ``match``."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.chance import NUMBERS, TEXTS
from tests.fuzz.search import Ending, Kind, type_in

TABLE = """\
role,label,gpus,isl,osl,concurrency,req_s,tok_s,tpot_ms,ttft_ms,mtp
ctx,DEP4,4,1024,64,,40.5,,,300,0
ctx,TEP4,4,1024,64,,22.1,,,210,0
gen,DEP8,8,1024,64,8,,900,9.1,20,0
gen,DEP8,8,1024,64,64,,5100,12.5,30,0
gen,TEP4,4,1024,64,8,,700,10,20,0
gen,TEP4,4,1024,64,32,,2100,14,20,0
ifb,DEP4,4,1024,64,4,,300,11,200,0
ifb,DEP4,4,1024,64,32,,1500,19,400,0
"""
CELLS = (
    *(*NUMBERS, *(text for text in TEXTS if len(text) < 1000)),
    *(
        "ctx",
        "gen",
        "ifb",
        "prefill",
        "ROLE",
        "1e9",
        "1e-6",
        "100000",
        "100001",
        "1e8",
        '"a,b"',
        '"a\nb"',
        '"',
        'a"b',
        "A" * 2000,
    ),
)
OPTIONS: tuple[tuple[str, ...], ...] = (
    *(
        (),
        (),
        ("--json",),
        ("--all-plans", "--json"),
        ("--max-gpus", "16"),
        ("--max-gpus", "300"),
        ("--ttft-ms", "250"),
    ),
    *(
        ("--tpot-ms", "12"),
        ("--gpus-per-node", "4"),
        ("--gpus-per-node", "4", "--nodes", "3"),
        ("--osl", "64"),
        ("--osl", "1"),
    ),
    *(("--gpus-per-node", "8", "--share-nodes"), ("--concurrency", "1,8,64"), ("--concurrency", "99999999")),
    *(
        ("--objective", "per_allocated_gpu", "--gpus-per-node", "4"),
        ("--objective", "tok_s_in_budget"),
        ("--nodes", "2"),
    ),
)


def make(rng: random.Random) -> tuple[bytes, tuple[str, ...]]:
    options = rng.choice(OPTIONS) if rng.random() < 0.9 else (*rng.choice(OPTIONS), "--max-gpus", rng.choice(NUMBERS))
    text = TABLE
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        text = _spoil(rng, text)
    if rng.random() < 0.02:
        return bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 50, 500]))), options
    return text.encode("utf-16" if rng.random() < 0.02 else "utf-8", "surrogatepass"), options


def _spoil(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(",")
    match rng.choices(range(7), (55, 14, 8, 3, 3, 4, 13))[0]:
        case 0:
            cells[rng.randrange(len(cells))] = rng.choice(CELLS)
            lines[at] = ",".join(cells)
        case 1:
            lines = [*lines[:at], rng.choice(lines), *lines[at + rng.randrange(2) :]]
        case 2:
            cells.insert(rng.randrange(len(cells) + 1), rng.choice(CELLS))
            lines[at] = ",".join(cells[rng.randrange(2) :])
        case 3:
            return text.replace(",", rng.choice([";", "\t", ",,", " , "]))
        case 4:
            lines[0] += "," + rng.choice(["emulated", "model", "gpu", "x", "", "label", "predicted"])
        case 5:
            place = rng.randrange(len(text) + 1)
            return text[:place] + rng.choice('\x00\n\r"\ufeff\u2028\x1b\t') + text[place:]
        case _:
            others = rng.choice(lines).split(",")
            cells[rng.randrange(len(cells))] = rng.choice(others)
            lines[at] = ",".join(cells)
    return "\n".join(lines)


def run(given: tuple[bytes, tuple[str, ...]], folder: Path) -> Ending:
    content, options = given
    table = folder / "rates.csv"
    table.write_bytes(content)
    return type_in("match", str(table), *options)


KIND = Kind("tables", make, run, few=60)
