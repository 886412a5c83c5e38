"""A table of rates that a person names, and how to match it: what ``ratematch match`` reads."""

from __future__ import annotations

from pathlib import Path

from ratematch.errors import Problem, TableError, UserError
from ratematch.match.matching import Objective
from ratematch.match.packing import Packing
from ratematch.match.table import Asked, TableRow, read_table

RACK_GPUS = 72
"""Largest deployment planned when nobody says: one NVL72 rack."""


def read_rates(
    path: Path,
    *,
    osl: int | None = None,
    max_gpus: int | None = None,
    gpus_per_node: int | None = None,
    nodes: int | None = None,
    share_nodes: bool = False,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    objective: Objective = "per_used_gpu",
    concurrency: tuple[int, ...] = (),
) -> tuple[list[TableRow], Asked]:
    """The rows of the table at ``path`` and what is asked of them.

    Raises:
        TableError: the file cannot be read, or is no table. UserError: options that contradict one another.
    """
    if nodes is not None and gpus_per_node is None:
        raise UserError("--nodes needs --gpus-per-node: how many GPUs has a node?")
    if objective == "per_allocated_gpu" and gpus_per_node is None:
        raise UserError("--objective per_allocated_gpu needs --gpus-per-node: whole nodes are what is allocated")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TableError([Problem(str(path), f"cannot be read ({error.strerror})", "give a CSV file")]) from error
    except UnicodeDecodeError as error:
        raise TableError([Problem(str(path), "is no UTF-8 text", "export it as CSV, UTF-8")]) from error
    packing = None if gpus_per_node is None else Packing(gpus_per_node, nodes, share_nodes)
    if max_gpus is None:
        max_gpus = nodes * gpus_per_node if nodes and gpus_per_node else RACK_GPUS
    return read_table(text, str(path)), Asked(
        max_gpus=max_gpus,
        osl=osl,
        packing=packing,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        objective=objective,
        concurrencies=concurrency,
    )
