"""Apache Arrow without pandas, in processes that make no frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import pyarrow as pa


class _NotHere:
    """Finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"{name} is not looked for", name=name)


def leave_pandas_out() -> None:
    """Have pyarrow do without pandas here, unless it is loaded.

    At its first conversion pyarrow loads pandas wherever that is installed, to tell its objects from others: a fifth
    of all that a job of short loads computes, and half a second in which GPUs may wait. It looks once only. Whoever
    imports pandas later gets it, and frames too; only ``pandas.NA`` among plain objects is not taken for null.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NotHere)
    try:
        pa.array([0, None]).to_numpy(zero_copy_only=False)
    finally:
        sys.meta_path.remove(_NotHere)
