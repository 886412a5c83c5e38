"""A table of rates that a person names, and what is asked of it: what ``ratematch match`` reads."""

from __future__ import annotations

from pathlib import Path

from ratematch.errors import Problem, TableError, UserError
from ratematch.match.question import Question
from ratematch.match.table import TableRow, read_table

RACK_GPUS = 72
"""Largest deployment planned when nobody says: one NVL72 rack."""


def read_rates(path: Path, question: Question) -> tuple[list[TableRow], Question]:
    """The rows of the table at ``path``, and ``question`` filled in for a table.

    Raises:
        TableError: the file cannot be read, or is no table. UserError: options that contradict one another.
    """
    if question.nodes is not None and question.gpus_per_node is None:
        raise UserError("--nodes needs --gpus-per-node: how many GPUs has a node?")
    if question.objective == "per_allocated_gpu" and question.gpus_per_node is None:
        raise UserError("--objective per_allocated_gpu needs --gpus-per-node: whole nodes are what is allocated")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TableError([Problem(str(path), f"cannot be read ({error.strerror})", "give a CSV file")]) from error
    except UnicodeDecodeError as error:
        raise TableError([Problem(str(path), "is no UTF-8 text", "export it as CSV, UTF-8")]) from error
    return read_table(text, str(path)), question.filled_in(Question(max_gpus=RACK_GPUS))
