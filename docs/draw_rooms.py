"""Draws ``docs/rooms.svg``: the rooms of the package as they are, from the code's own imports.

``python docs/draw_rooms.py [FILE]``. Floors are those of the ``layers`` contract in ``pyproject.toml``; a box says
how many modules and lines it holds; an arrow goes from a room to each room that it imports, the thicker the more
imports. An arrow that others imply (a room may use all that its rooms use) is left out, or the picture would be all
arrows; so are those to ``version``. There is no arrow up: import-linter refuses one.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import grimp
import matplotlib
import tomllib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PURE = {"plan", "measure", "match", "search", "errors", "version"}
INK, PAPER, COLD, WARM = "#1b1b1b", "#ffffff", "#dbe9f6", "#f6ead2"


def read_contract() -> tuple[list[list[str]], set[str]]:
    """Rooms by floor, the lowest first, without the entry point; and old module names, which are not drawn."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "layers")
    floors = [[room.strip() for room in re.split(r"[|:]", layer)] for layer in reversed(contract["layers"])]
    old_names = {line.split(" -> ")[0] for line in contract.get("ignore_imports", ())}
    return [floor for floor in floors if floor != ["__main__"]], old_names


def count_imports(without: set[str]) -> Counter[tuple[str, str]]:
    """How many imports lead from a room to another: (from, to) -> number."""
    graph = grimp.build_graph("ratematch")
    count: Counter[tuple[str, str]] = Counter()
    for module in graph.modules - without:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = tuple(name.split(".")[1] if "." in name else "" for name in (module, imported))
            if all(pair) and pair[0] != pair[1] and pair[1] != "version":
                count[pair[0], pair[1]] += 1
    return count


def leave_out_implied(arrows: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The fewest arrows from which the same rooms are reached (the transitive reduction; there are no circles)."""
    ahead: dict[str, set[str]] = {}
    for source, target in arrows:
        ahead.setdefault(source, set()).add(target)

    @cache
    def reached(room: str) -> frozenset[str]:
        below = ahead.get(room, set())
        return frozenset(below).union(*(reached(other) for other in below))

    return {
        (source, target)
        for source, below in ahead.items()
        for target in below
        if not any(target in reached(other) for other in below if other != target)
    }


def measure_room(room: str) -> tuple[int, int]:
    """Modules and lines of a room."""
    place = ROOT / "ratematch" / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return len(files), sum(len(file.read_text("utf-8").splitlines()) for file in files)


def draw(target: Path) -> None:
    """Writes the picture; the same code gives the same bytes."""
    floors, old_names = read_contract()
    imports = count_imports(old_names)
    matplotlib.rcParams["svg.hashsalt"] = "rooms"
    figure, axes = plt.subplots(figsize=(10, 0.95 * len(floors)))
    axes.set_axis_off()
    center: dict[str, tuple[float, float]] = {}
    width, height = 1.7, 0.56
    for level, floor in enumerate(floors):
        # Rooms of neighbouring floors stand beside each other's gaps, so that arrows can be told apart.
        shift = 0.0 if len(floor) > 1 else (-2.3, 0.0, 2.3)[level % 3]
        for place, room in enumerate(floor):
            center[room] = (shift + (place - (len(floor) - 1) / 2) * 2.6, float(level))
    for source, target_room in sorted(leave_out_implied(pair for pair in imports if set(pair) <= set(center))):
        number = imports[source, target_room]
        (x0, y0), (x1, y1) = center[source], center[target_room]
        bend = 0.0 if abs(y0 - y1) <= 1 else 0.16 * (1 if x0 >= x1 else -1)
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0 - height / 2),
                (x1, y1 + height / 2),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=8,
                linewidth=0.6 + 0.25 * number**0.5,
                color=INK,
                alpha=0.55,
                zorder=1,
            )
        )
    for room, (x, y) in center.items():
        modules, lines = measure_room(room)
        axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - height / 2),
                width,
                height,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                facecolor=COLD if room in PURE else WARM,
                edgecolor=INK,
                linewidth=0.8,
                zorder=2,
            )
        )
        axes.text(x, y + 0.1, room, ha="center", va="center", fontsize=11, weight="bold", zorder=3)
        noun = "module" if modules == 1 else "modules"
        axes.text(x, y - 0.14, f"{modules} {noun}, {lines} lines", ha="center", va="center", fontsize=7.5, zorder=3)
    axes.set_xlim(-5.2, 5.2)
    axes.set_ylim(-0.9, len(floors) - 0.6)
    key = "blue: pure values and arithmetic; yellow: clock, disk, network or processes; arrow: imports"
    axes.text(0, -0.75, key, ha="center", fontsize=8)
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, facecolor=PAPER, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("rooms.svg"))
