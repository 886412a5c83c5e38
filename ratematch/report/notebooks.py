"""The notebooks that come with ratematch, executed on somebody's own results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ratematch.errors import UserError
from ratematch.store.files import write_aside

ONE_FOLDER = ("1-quick-look", "2-rate-matching-explained", "4-paper-figure")
"""Notebooks about one results folder; the third compares two."""
TWO_FOLDERS = "3-compare-two-sweeps"
REAL_RESULTS = "5-two-h200"
"""The one about what was measured on real GPUs and is in the repository."""
PARAMETERS = "parameters"
"""Tag of the cell that names the results."""
CELL_S = 300
FORGET = "get_ipython().reset()"
"""Has a kernel forget the names of the notebook before, and count cells from 1."""


def read_notebook(name: str) -> Any:
    """The notebook ``name`` as committed: without outputs.

    Raises:
        UserError: the packages for notebooks are not installed.
    """
    nbformat, _ = _packages()
    text = (resources.files("ratematch") / "data" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    return nbformat.reads(text, as_version=4)


def execute_each(notebooks: Sequence[tuple[str, Mapping[str, Path]]], folder: Path) -> list[Any]:
    """Run notebooks, each a name and its parameters, one after the other in ``folder``, and return them.

    One kernel runs them all, for it imports for seconds what all of them need; each begins with no names and at
    cell 1.

    Raises:
        UserError: a cell failed, or the packages for notebooks are not installed.
    """
    _, nbclient = _packages()
    executed = [_with_parameters(name, parameters) for name, parameters in notebooks]
    client = nbclient.NotebookClient(
        executed[0], timeout=CELL_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel():
        for (name, _), client.nb in zip(notebooks, executed, strict=True):
            client.kc.execute(FORGET, silent=True)  # the kernel takes what it is sent in this order
            try:
                client.execute(cleanup_kc=False)
            except nbclient.exceptions.CellExecutionError as error:
                raise UserError(f"notebook {name}: a cell failed: {error.ename}: {error.evalue}") from error
    return executed


def _with_parameters(name: str, parameters: Mapping[str, Path]) -> Any:
    notebook = read_notebook(name)
    for cell in notebook.cells:
        if PARAMETERS in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{key} = {str(path.resolve())!r}" for key, path in parameters.items())
    return notebook


def write_executed(results: Path, folder: Path) -> list[Path]:
    """Executed copies of every notebook about one results folder, in ``folder``.

    Raises:
        UserError: see :func:`execute_each`.
    """
    nbformat, _ = _packages()
    folder.mkdir(parents=True, exist_ok=True)
    executed = execute_each([(name, {"RESULTS": results}) for name in ONE_FOLDER], folder)
    return [
        write_aside(folder / f"{name}.ipynb", nbformat.writes(notebook).encode("utf-8"))
        for name, notebook in zip(ONE_FOLDER, executed, strict=True)
    ]


def _packages() -> tuple[Any, Any]:
    try:
        import ipykernel  # noqa: F401, PLC0415
        import nbclient  # noqa: PLC0415
        import nbformat  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"notebooks need the package {error.name}: pip install 'ratematch[notebook]'") from error
    return nbformat, nbclient
