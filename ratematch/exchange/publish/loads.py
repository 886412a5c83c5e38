"""One finished load in a published copy: its figures, how it ran, and its requests where they are kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratematch.exchange.publish.cleaner import Cleaner
from ratematch.measure.records import RequestRecord
from ratematch.store import checksums, layout
from ratematch.store.files import write_json
from ratematch.store.records import write_records
from ratematch.store.storedload import StoredLoad

TEXTS = ("finish_reason", "error", "stream_note", "times")
"""Fields of a record that are text; its outcome is one of a few words."""


def publish_load(stored: StoredLoad, target: Path, cleaner: Cleaner, *, records: bool) -> Counter[str]:
    """Write the load to ``target``, with its requests where ``records``; how many files of which kind are left out.

    The means of all counters that its servers have (``prometheus``) are left out: the stages of a request's time that
    come from them stay. Checksums are those of the files as they are written.

    Raises:
        DamagedFile: its records are asked for and cannot be used.
    """
    target.mkdir(parents=True)
    write_json(target / layout.MEASUREMENT, cleaner.value(_read(stored.folder / layout.MEASUREMENT)))
    if records:
        write_records(target / layout.RECORDS, [_clean(record, cleaner) for record in stored.records()])
    content = _read(stored.folder / layout.LOADRUN)
    for key in (checksums.FILES, checksums.OWN):
        content.pop(key, None)
    if content.get("prometheus"):
        content["prometheus"] = None
    write_json(target / layout.LOADRUN, checksums.seal(target, cleaner.value(content)))
    written = {layout.MEASUREMENT, layout.LOADRUN, *([layout.RECORDS] if records else [])}
    return Counter(
        name if name in NAMES else "other files of loads"
        for name in (file.name for file in stored.folder.iterdir() if file.is_file())
        if name not in written
    )


NAMES = (layout.RECORDS, layout.WARMUP, layout.ITERATIONS, layout.PERF_METRICS, layout.PROMETHEUS)


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def _clean(record: RequestRecord, cleaner: Cleaner) -> RequestRecord:
    texts = {name: getattr(record, name) for name in TEXTS}
    cleaned = {name: cleaner.value({name: text})[name] for name, text in texts.items() if text is not None}
    return replace(record, **cleaned)
