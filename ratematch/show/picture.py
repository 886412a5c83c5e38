"""A plot with the data behind it: shown by notebooks, written as PNG, SVG and CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ratematch.show import style
from ratematch.show.tables import to_csv
from ratematch.store.files import write_aside

if TYPE_CHECKING:  # half a second and 40 MB that only a notebook needs
    import pandas as pd

SCREEN_DPI = 130
"""Of the PNG that a notebook shows; files have :data:`style.PNG_DPI`."""


@dataclass(frozen=True)
class Picture:
    """``name``: stem of its files. ``figure``: matplotlib's, on its own canvas. ``rows``: what is drawn, flat, with
    units in the names of the ``columns``."""

    name: str
    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def data(self) -> pd.DataFrame:
        """The rows behind the picture, one a drawn point."""
        import pandas as pd  # noqa: PLC0415 - as above

        return pd.DataFrame([dict(row) for row in self.rows], columns=list(self.columns))

    def save(self, folder: Path | str) -> list[Path]:
        """Write ``<name>.png``, ``.svg`` and ``.csv`` into ``folder``; returns their paths."""
        stem = Path(folder) / self.name
        table = write_aside(stem.with_name(f"{stem.name}.csv"), to_csv(self.columns, self.rows).encode("utf-8"))
        return [*save_figure(self.figure, stem), table]

    def png(self, dpi: int = SCREEN_DPI) -> bytes:
        return _render(self.figure, "png", dpi)

    def _repr_png_(self) -> bytes:
        return self.png()


def make_picture(name: str, figure: Figure, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Picture:
    """A picture whose rows have exactly ``columns``; what a row holds beyond them is left out."""
    names = tuple(columns)
    kept = (row if row.keys() == set(names) else {key: row[key] for key in names} for row in rows)
    return Picture(name, figure, names, tuple(kept))


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """``<stem>.png`` and ``<stem>.svg``, each written aside and renamed; the same figure gives the same bytes."""
    sizes = {"png": style.PNG_DPI, "svg": 72}
    return [
        write_aside(stem.with_name(f"{stem.name}.{suffix}"), _render(figure, suffix, dpi))
        for suffix, dpi in sizes.items()
    ]


def _render(figure: Figure, suffix: str, dpi: int) -> bytes:
    metadata = {"png": {"Software": "ratematch"}, "svg": {"Date": None, "Creator": "ratematch"}}
    picture = io.BytesIO()
    with style.house_style():
        figure.savefig(picture, format=suffix, dpi=dpi, metadata=metadata[suffix])
    return picture.getvalue()
