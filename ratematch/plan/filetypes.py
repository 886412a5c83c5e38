"""Types of the numbers in sweep files, as pydantic checks them: units in their names, bounds in each.

0 is allowed where the name says ``OrNone`` alone.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

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
