"""JSON schemas (draft 2020-12) of the files that people write and of those that hold results, for editors and for
programs that read them.

Each is made from the very types that check or hold a file's content, so a schema cannot differ from what is read. One
of a file that people write forbids keys that nobody knows; one of results does not, for later versions add keys. What
depends on more than the file (does a model fit, is a profile there) only ``ratematch plan`` and ``doctor`` know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ratematch.exchange.schemas import resultfiles, writtenfiles

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class FileSchema:
    """``files``: which ones it is of, in words. ``make``: the schema without its head."""

    name: str
    files: str
    make: Callable[[], dict[str, Any]]

    @property
    def file(self) -> str:
        """Name of the file that it is published in."""
        return f"{self.name}.schema.json"

    def content(self) -> dict[str, Any]:
        """The whole schema, as plain JSON values."""
        return {"$schema": DRAFT, "title": f"ratematch: {self.files}", **self.make()}

    def text(self) -> str:
        """The same as it is published: one spelling for one content."""
        return json.dumps(self.content(), indent=1, sort_keys=True, allow_nan=False) + "\n"


SCHEMAS: Mapping[str, FileSchema] = {
    schema.name: schema
    for schema in (
        FileSchema("sweep", "sweep files", writtenfiles.sweep),
        FileSchema("cluster", "cluster profiles", writtenfiles.cluster),
        FileSchema("model", "model files", writtenfiles.model),
        FileSchema("gpu", "GPU files", writtenfiles.gpu),
        FileSchema("experiment", "experiment.json of results", resultfiles.experiment),
        FileSchema("loadrun", "loadrun.json of results", resultfiles.loadrun),
        FileSchema("measurement", "measurement.json of results", resultfiles.measurement),
        FileSchema("outcome", "outcome.json of results", resultfiles.outcome),
        FileSchema("provenance", "provenance.json of results", resultfiles.provenance),
        FileSchema("limits", "limits.json of results", resultfiles.limits),
        FileSchema("analysis", "analysis.json of a report", resultfiles.analysis),
    )
}
"""By name."""
