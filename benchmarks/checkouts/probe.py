"""What only Python can tell of a checkout: run with the checkout on PYTHONPATH, in a process of its own.

    python probe.py names|cli|frames FOLDER

``names``: the public names of ``import ratematch as rm``. ``cli``: every verb with its options. ``frames``: what the
public functions return for ``results/sample`` of the working directory. Nothing but ``ratematch`` itself and
``python -m ratematch`` is imported from the checkout, so that moved modules do not matter.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import click
import pandas as pd

SAMPLE = "results/sample"
FUNCTIONS = (FunctionType, MethodType)
OF_ANALYSIS = ("pareto", "speedup", "split", "gap")
OF_BOTH = ("ctx", "gen", "latency", "slip")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")


def describe_call(value: Callable[..., Any]) -> dict[str, Any]:
    """Parameters in their order; annotations apart and without module names, so that a type may move."""
    signature = inspect.signature(value)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    types = {p.name: p.annotation for p in signature.parameters.values()} | {"return": signature.return_annotation}
    return {
        "call": str(inspect.Signature(plain)),
        "annotations": {
            name: re.sub(r"\b(\w+\.)+(?=\w)", "", str(each))
            for name, each in types.items()
            if each is not inspect.Parameter.empty
        },
    }


def describe_name(value: Any) -> dict[str, Any]:
    """Kind, and for classes every public attribute, for callables how they are called."""
    if inspect.isclass(value):
        members = {name: getattr(value, name) for name in dir(value) if not name.startswith("_")}
        return {
            "kind": "class",
            **describe_call(value),
            "attributes": {
                name: describe_call(member) if isinstance(member, FUNCTIONS) else type(member).__name__
                for name, member in members.items()
            },
        }
    if callable(value):
        return {"kind": "callable", **describe_call(value)}
    return {"kind": type(value).__name__, "value": repr(value)}


def collect_names(folder: Path) -> None:
    rm = importlib.import_module("ratematch")
    public = {name: getattr(rm, name) for name in dir(rm) if not name.startswith("_")}
    kept = {
        name: describe_name(value)
        for name, value in public.items()
        if (not isinstance(value, ModuleType) or callable(value)) and type(value).__module__ != "__future__"
    }
    write(folder / "names.json", kept)


def collect_cli(folder: Path) -> None:
    """Verbs, arguments, options, types and defaults, as click knows them: ``verbs.json``. Words: ``help.json``."""
    entry = importlib.import_module("ratematch.__main__")
    verbs = next(value for value in vars(entry).values() if isinstance(value, click.Group))
    tree = verbs.to_info_dict(click.Context(verbs, info_name="ratematch"))
    words: dict[str, Any] = {}
    write(folder / "verbs.json", _without_words(tree, ("ratematch",), words))
    write(folder / "help.json", words)


WORDS = ("help", "short_help", "epilog")


def _without_words(node: dict[str, Any], path: tuple[str, ...], words: dict[str, Any]) -> dict[str, Any]:
    """A command without its help, which goes to ``words``, and options by what people type: ``name`` is that of a
    parameter in our code."""
    words[" ".join(path)] = {key: node[key] for key in WORDS if node.get(key)}
    params: dict[str, Any] = {}
    for order, param in enumerate(node["params"]):
        typed = " ".join([*param["opts"], *param["secondary_opts"]])
        kept = {key: value for key, value in param.items() if key not in ("name", *WORDS)}
        params[typed] = kept | ({"order": order} if param["param_type_name"] == "argument" else {})
        if param.get("help"):
            words[" ".join([*path, typed])] = {"help": param["help"]}
    kept = {key: value for key, value in node.items() if key not in ("commands", "params", *WORDS)}
    below = {name: _without_words(each, (*path, name), words) for name, each in node.get("commands", {}).items()}
    return kept | {"params": params} | ({"commands": below} if below else {})


def collect_frames(folder: Path) -> None:
    """Every frame as CSV with the types of its columns, and what is drawn by every plot."""
    rm = importlib.import_module("ratematch")
    results = rm.load_results(SAMPLE)
    analysis = rm.match(results)
    comparison = rm.compare(SAMPLE, SAMPLE)
    frames: dict[str, Callable[[], Any]] = {
        "loads": lambda: results.loads,
        "requests": lambda: results.requests,
        "fronts": lambda: rm.fronts(analysis),
        "points": lambda: rm.points(analysis),
        "speedups": lambda: rm.speedups(analysis),
        "gaps": lambda: rm.gaps(analysis),
        "recommendations": lambda: rm.recommendations(analysis),
        "drift": lambda: rm.drift(comparison),
        "changes": lambda: rm.changes(comparison),
        "fronts-limited": lambda: rm.fronts(rm.match(results, ttft_ms=300.0, tpot_ms=20.0, percentile=95)),
        "fronts-calibrated": lambda: rm.fronts(rm.match_results(results, max_gpus=12, calibrate=True)),
    }
    for name, make in frames.items():
        _write_frame(folder / name, make)
    plots: dict[str, Callable[[], Any]] = {
        **{f"plot_{name}": partial(getattr(rm, f"plot_{name}"), analysis) for name in OF_ANALYSIS},
        **{f"plot_{name}": partial(getattr(rm, f"plot_{name}"), results, analysis) for name in OF_BOTH},
        "plot_figure": partial(rm.plot_figure, results, 11),
        "plot_compare": partial(rm.plot_compare, comparison),
    }
    for name, draw in plots.items():
        _write_frame(folder / name, partial(_drawn, draw))
    write(folder / "repr.json", {"results": repr(results)})


def _drawn(draw: Callable[[], Any]) -> Any:
    return draw().data


def _write_frame(path: Path, make: Callable[[], Any]) -> None:
    try:
        frame = make()
    except Exception as error:  # what fails here may work in the other checkout: that is a difference to name
        write(path.with_suffix(".failed.json"), {"error": f"{type(error).__name__}: {error}"})
        return
    frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path.with_suffix(".csv"), index=False)
    write(path.with_suffix(".columns.json"), {str(name): str(dtype) for name, dtype in frame.dtypes.items()})


def main(what: str, folder: str) -> None:
    match what:
        case "names":
            collect_names(Path(folder))
        case "cli":
            collect_cli(Path(folder))
        case "frames":
            collect_frames(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
