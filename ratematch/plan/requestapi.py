"""How requests reach the servers of a deployment: over which API, and what they call the model there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Api = Literal["completions", "chat", "generate", "generate-ids"]
"""``completions``, ``chat``: OpenAI's. ``generate``, ``generate-ids``: ``generate_stream`` of Triton Inference
Server, with a text for its ensemble, or with token ids for an engine's model or its orchestrator."""

APIS: tuple[Api, ...] = get_args(Api)


@dataclass(frozen=True)
class RequestApi:
    """``model``: in the body, or for Triton in the path; empty = the path of the weights, as servers are started."""

    api: Api = "completions"
    model: str = ""
