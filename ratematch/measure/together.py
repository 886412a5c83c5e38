"""How many requests decode together, as those that decode find it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ratematch.measure.records import RequestRecord
from ratematch.measure.window import Window


def decoding_together(records: Iterable[RequestRecord], window: Window) -> float | None:
    """Mean number of requests between first and last token over the time that requests spend there: the integral of
    C(t)^2 over that of C(t) within ``window``. ``None`` where none decodes.

    TPOT is the mean over decoding requests of the steps they see, so this is the batch that it belongs to. The mean
    of C over all time is less where requests come in waves and the batch runs empty in between.
    """
    spans = [
        (max(record.first_token_ns, window.start_ns), min(record.last_token_ns, window.end_ns))
        for record in records
        if record.first_token_ns is not None and record.last_token_ns is not None
    ]
    inside = np.array([span for span in spans if span[1] > span[0]], dtype=np.int64).reshape(-1, 2)
    if not inside.size:
        return None
    instants = np.concatenate([inside[:, 0], inside[:, 1]])
    change = np.concatenate([np.ones(len(inside)), -np.ones(len(inside))])
    order = np.argsort(instants, kind="stable")
    held = np.cumsum(change[order])[:-1]
    spent = np.diff(instants[order]).astype(np.float64)
    return float((held * held * spent).sum() / (held * spent).sum())
