"""One file of a results folder damaged at random: it costs what it holds, and says so; nothing else is touched.

``FUZZ_SEEDS`` and ``FUZZ_CASES`` make it longer than in CI.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ratematch as rm
from ratematch.cli import main
from ratematch.errors import RatematchError
from ratematch.store.folder import Results
from tests.fuzz.chance import walk

GOLDEN = Path(__file__).parents[1] / "golden" / "results_v1"
SEEDS = range(int(os.environ.get("FUZZ_SEEDS", "1")))
CASES = int(os.environ.get("FUZZ_CASES", "8"))
SWEEPS = ("earlier", "now")
WRONG: tuple[Any, ...] = (None, "x", -1, 0, [], {}, True, 1e308, "<script>", "\x1b[31m", 10**30, [[[]]], {"a": None})


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 4, 20])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def change_value(content: bytes, rng: random.Random) -> bytes:
    """Another value, or none, at a random place of a JSON file; random bits of any other file."""
    try:
        document = json.loads(content)
    except ValueError:
        return flip_bits(content, rng)
    places = list(walk(document))
    if not places:
        return b"null"
    container, key = rng.choice(places)
    if isinstance(container, dict) and rng.random() < 0.4:
        del container[key]
    else:
        container[key] = rng.choice(WRONG)
    return json.dumps(document).encode()


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "missing": lambda content, rng: None,
    "empty": lambda content, rng: b"",
    "half": lambda content, rng: content[: len(content) // 2],
    "random bytes": lambda content, rng: rng.randbytes(300),
    "null": lambda content, rng: b"null",
    "list": lambda content, rng: b"[]",
    "object": lambda content, rng: b"{}",
    "text": lambda content, rng: b'"x"',
    "number": lambda content, rng: b"5",
    "deep": lambda content, rng: b"[" * 100_000,
    "not a number": lambda content, rng: b'{"tok_s": NaN, "seconds": Infinity}',
    "bits": flip_bits,
    "more at the end": lambda content, rng: content + b"\x00\x00more",
    "a value": change_value,
    "another value": change_value,
}


@contextmanager
def damaged(file: Path, how: str, rng: random.Random) -> Iterator[None]:
    """``file`` damaged in one way, or a folder in its place; as it was, afterwards."""
    content = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif (changed := DAMAGES[how](content, rng)) is not None:
        file.write_bytes(changed)
    try:
        yield
    finally:
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        file.write_bytes(content)


def ask(*argv: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a verb; any exception that it does not report itself fails the test."""
    done = CliRunner().invoke(main, [str(word) for word in argv], catch_exceptions=False)
    assert "unexpected" not in done.stderr, done.stderr
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps: one that an earlier version wrote, one with the checksums of this one."""
    root = tmp_path_factory.mktemp("folders")
    shutil.copytree(GOLDEN / "adaptive", root / "earlier")
    shutil.copytree(GOLDEN / "adaptive", root / "now")
    for stored in Results(root / "now").now().experiments:
        for load in stored.loads:
            stored.folder.finish_load(load.load, load.run, load.measurement)
    return root


def figures_of(folder: Path) -> dict[str, Any]:
    """What `status` knows of each measured load, by experiment and load."""
    _, out, _ = ask("status", folder, "--json")
    status = json.loads(out)
    return {f"{row['folder']}/{load['load']}": load for row in status["experiments"] for load in row["measured"]}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_damaged_file_costs_what_it_holds(folder: Path, sweep: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{sweep} {seed}")
    root = folder / sweep
    whole = figures_of(root)
    files = sorted(file for file in root.rglob("*") if file.is_file() and "report" not in file.parts)
    kinds = sorted({file.name for file in files})
    # The second sweep goes on where the first one ends: other files, and pictures no more often than they must be.
    first = SWEEPS.index(sweep) * CASES
    for number in range(first, first + CASES):
        name = kinds[number % len(kinds)]
        file = rng.choice([file for file in files if file.name == name])
        how = rng.choice(["folder", *DAMAGES])
        with damaged(file, how, rng):
            check(root, file, whole, number, tmp_path)


def check(root: Path, file: Path, whole: dict[str, Any], number: int, output: Path) -> None:
    experiment, load = owner(root, file)
    for name, figures in figures_of(root).items():
        mine = name.startswith(f"{experiment}/") and (load is None or name == f"{experiment}/{load}")
        assert mine or figures == whole[name], f"{name} changed with {file}"
    verbs: list[list[str | Path]] = [["verify", root], ["status", root]]
    verbs += [["pareto", root, "--json", "-o", output / "plots"]] if number % 5 == 1 else []
    verbs += [["compare", root, root]] if number % 7 == 0 else []
    verbs += [["report", root, "-o", output / "report.html"]] if number % 17 == 0 else []
    form = ("csv", "aiperf", "benchmark-serving", "inferencex")[number % 4]
    verbs += [["export", "results", root, "--format", form, "-o", output / "exports"]] if number % 5 == 0 else []
    for verb in verbs:
        ask(*verb)
    try:
        rm.load_results(root).match()
    except RatematchError as error:
        assert "\n" not in str(error)


def owner(root: Path, file: Path) -> tuple[str, str | None]:
    """The experiment and, where it is of a load, the load whose file this is."""
    parts = file.relative_to(root).parts
    return parts[0], parts[2] if len(parts) > 3 and parts[1] == "loads" else None


@pytest.mark.parametrize("name", ["loadrun.json", "measurement.json", "records.parquet"])
@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_bit_in_a_load_is_seen(folder: Path, name: str, seed: int) -> None:
    root = folder / "now"
    rng = random.Random(f"{name} {seed}")
    files = sorted(root.rglob(f"loads/*/{name}"))
    assert files
    file = rng.choice(files)
    with damaged(file, "bits", rng):
        code, out, _ = ask("verify", root, "--json")
        assert code == 1
        complaints = json.loads(out)["complaints"]
    assert [complaint["load"] for complaint in complaints] == [str(file.parent.relative_to(root))]
