"""Secrets on their way from a sweep to its jobs: by a file in each experiment that only its owner can read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ratematch.errors import UserError
from ratematch.plan.secret import Masker, refuse_value
from ratematch.plan.sweep import Sweep
from ratematch.store import private
from ratematch.store.folder import Results
from ratematch.store.masking import masking


def find_values(sweep: Sweep) -> dict[str, str]:
    """The secrets of a sweep's servers, by variable.

    Raises:
        UserError: one is taken from a variable that is not set here, or holds what cannot be one, such as a name that
            the sweep has in other places.
    """
    values = sweep.secrets.values(os.environ)
    open_text = repr(sweep) if values else ""  # masking a word of it would spoil what is kept of it
    for name in sweep.secrets.given:
        source = sweep.secrets.source(name)
        if name not in values:
            raise UserError(f"{name} of {sweep.source} or its profile is a secret: set {source} and run this again")
        if why := refuse_value(values[name]):
            raise UserError(f"{source}: {why}")
        if Masker((values[name],)).text(open_text) != open_text:
            raise UserError(f"the value of {name} stands in the sweep or its profile elsewhere too: it is no secret")
    return values


class Handed:
    """What is handed to jobs: ``values``, by variable, in the folder of each experiment that waits for a job."""

    def __init__(self, values: Mapping[str, str]):
        self.values = values
        self._there: set[Path] = set()

    def hand(self, folders: Iterable[Path]) -> None:
        """Have the values ready in ``folders``."""
        for folder in folders if self.values else ():
            if folder not in self._there:
                private.write_secrets(folder, self.values)
                self._there.add(folder)

    def ended(self, folder: Path) -> None:
        """The job in ``folder`` has ended, and may have removed them."""
        self._there.discard(folder)


@contextlib.contextmanager
def handing_over(sweep: Sweep, values: Mapping[str, str], results: Results) -> Iterator[Handed]:
    """Inside, secrets of ``sweep`` are masked in what is written, and ``values`` can be handed to its jobs. On
    leaving they are removed wherever nothing is measured; a job that outlives us removes its own when it is done."""
    with masking(sweep.secrets.values(os.environ).values()):
        try:
            yield Handed(values)
        finally:
            for folder in results.folders():
                if not folder.held():
                    private.forget_secrets(folder.path)
