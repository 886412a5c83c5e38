"""Types of the numbers in sweep files, as pydantic checks them: units in their names, bounds in each.

0 is allowed where the name says ``OrNone`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from ratematch.plan.numbers import (
    MOST_GPUS,
    MOST_MS,
    MOST_RATE,
    MOST_REPEATS,
    MOST_REQUESTS,
    MOST_SECONDS,
    MOST_SERVERS,
    MOST_TOKENS,
)

Tokens = Annotated[int, Field(gt=0, le=MOST_TOKENS, strict=True)]
Requests = Annotated[int, Field(gt=0, le=MOST_REQUESTS, strict=True)]
Servers = Annotated[int, Field(gt=0, le=MOST_SERVERS, strict=True)]
Gpus = Annotated[int, Field(gt=0, le=MOST_GPUS, strict=True)]
Repeats = Annotated[int, Field(gt=0, le=MOST_REPEATS, strict=True)]
PerSecond = Annotated[float, Field(ge=1e-6, le=MOST_RATE, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=MOST_MS, allow_inf_nan=False)]


@dataclass(frozen=True)
class AlsoOne:
    """Annotates a list that may be written as its only value, for the JSON schema of a file."""

    def __get_pydantic_json_schema__(self, kind: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        listed = handler(kind)
        return {"anyOf": [listed["items"], listed]}


@dataclass(frozen=True)
class AlsoName:
    """Annotates a map that may be written as the value of one of its keys, for the JSON schema of a file."""

    key: str

    def __get_pydantic_json_schema__(self, kind: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler(kind)
        return {"anyOf": [handler.resolve_ref_schema(whole)["properties"][self.key], whole]}
