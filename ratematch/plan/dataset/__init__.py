"""Data sets and traces: text to entries, entries to requests. Pure.

Formats are known by their fields, and a line that is none of them is refused, never taken for a prompt
(``docs/load-generator.md`` lists them). A module a family: :mod:`lines` (one prompt a line, traces),
:mod:`chats` (messages and conversations), :mod:`sessions`.
"""

from ratematch.plan.dataset.blocks import HASH_BLOCK as HASH_BLOCK
from ratematch.plan.dataset.entry import Dataset as Dataset
from ratematch.plan.dataset.entry import DatasetError as DatasetError
from ratematch.plan.dataset.entry import Entry as Entry
from ratematch.plan.dataset.entry import TimeUnit as TimeUnit
from ratematch.plan.dataset.parse import parse_dataset as parse_dataset
from ratematch.plan.dataset.pick import Making as Making
from ratematch.plan.dataset.pick import pick_requests as pick_requests
from ratematch.plan.dataset.summary import DatasetSummary as DatasetSummary
from ratematch.plan.dataset.summary import summarise as summarise
from ratematch.plan.dataset.summary import summary_to_json as summary_to_json
