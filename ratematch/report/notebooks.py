"""The notebooks that come with ratematch, executed on somebody's own results."""

from __future__ import annotations

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


def read_notebook(name: str) -> Any:
    """The notebook ``name`` as committed: without outputs.

    Raises:
        UserError: the packages for notebooks are not installed.
    """
    nbformat, _ = _packages()
    text = (resources.files("ratematch") / "data" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    return nbformat.reads(text, as_version=4)


def execute(name: str, parameters: dict[str, Path], folder: Path) -> Any:
    """Run the notebook ``name`` in ``folder`` with ``parameters`` (variables of its first cell) and return it.

    Raises:
        UserError: a cell failed, or the packages for notebooks are not installed.
    """
    _, nbclient = _packages()
    notebook = read_notebook(name)
    for cell in notebook.cells:
        if PARAMETERS in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{key} = {str(path.resolve())!r}" for key, path in parameters.items())
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise UserError(f"notebook {name}: a cell failed: {error.ename}: {error.evalue}") from error
    return notebook


def write_executed(results: Path, folder: Path) -> list[Path]:
    """Executed copies of every notebook about one results folder, in ``folder``.

    Raises:
        UserError: see :func:`execute`.
    """
    nbformat, _ = _packages()
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_aside(
            folder / f"{name}.ipynb", nbformat.writes(execute(name, {"RESULTS": results}, folder)).encode("utf-8")
        )
        for name in ONE_FOLDER
    ]


def _packages() -> tuple[Any, Any]:
    try:
        import ipykernel  # noqa: F401, PLC0415
        import nbclient  # noqa: PLC0415
        import nbformat  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"notebooks need the package {error.name}: pip install 'ratematch[notebook]'") from error
    return nbformat, nbclient
