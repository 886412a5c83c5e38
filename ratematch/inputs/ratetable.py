"""A table of rates that a person names, and what is asked of it: what ``ratematch match`` reads."""

from __future__ import annotations

from pathlib import Path

from ratematch.errors import Problem, TableError, UserError
from ratematch.inputs.textfile import read_text_file
from ratematch.match.question import Question
from ratematch.match.table import TableRow, read_table

MOST_BYTES = 16_000_000
"""Of a table: some hundred thousand rows."""

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
        text = read_text_file(path, MOST_BYTES)
    except UserError as error:
        raise TableError([Problem(str(path), str(error).partition(": ")[2], "give a CSV file, UTF-8")]) from None
    return read_table(text, str(path)), question.filled_in(Question(max_gpus=RACK_GPUS))
