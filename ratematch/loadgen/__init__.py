"""Sends requests on schedule to an OpenAI-compatible server, one record per request.

:func:`drive` runs one load; :func:`write_records` and :func:`read_records` keep its records on disk.
"""

from ratematch.loadgen.client import Target
from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.measure.clienthealth import ClientHealth
from ratematch.store.records import RECORDS_SCHEMA, read_records, write_records

__all__ = [
    "RECORDS_SCHEMA",
    "ClientHealth",
    "LoadControl",
    "LoadResult",
    "Progress",
    "Target",
    "drive",
    "read_records",
    "write_records",
]
