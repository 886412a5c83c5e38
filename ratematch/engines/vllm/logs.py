"""What the log of a vLLM server shows. It has throughput every 10 s, and no times of steps."""

from __future__ import annotations

import re

_GIVEN_UP = re.compile(r"EngineCore failed to start|Engine core initialization failed")
"""After this the API server may wait for ever for an engine process that has ended."""

_LINE = re.compile(
    r"\[\w+\.py:\d+\].{0,80}vLLM|\((?:APIServer|EngineCore|Worker)\w* pid=\d+\)|^(?:usage: )?vllm(?: serve)?:", re.M
)

_GENERATES = re.compile(r"Avg (?:prompt|generation) throughput: (?!0\.0 )\d")


def is_vllm_log(text: str) -> bool:
    """Is this a log of a vLLM server?"""
    return _LINE.search(text) is not None


def has_iterations(text: str) -> bool:
    """Does any line show a throughput above 0?"""
    return _GENERATES.search(text) is not None


def has_given_up(text: str) -> bool:
    """Does it say that its engine has ended, so that the server will never be ready?"""
    return _GIVEN_UP.search(text) is not None
