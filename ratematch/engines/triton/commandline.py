"""What an installation says about itself: TensorRT-LLM's version, the C++ backend, and the server's flags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ratematch.plan.finding import Finding

LINES = ("1.2", "1.1", "1.0")
"""Release lines with the C++ backend and its disaggregated model, newest first."""

LAST_CANDIDATE = 20
"""The 1.3 candidates up to about this one still have them."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?(?:rc(\d+))?(?:[.+-]\w+)*")

BACKEND = "/opt/tritonserver/backends/tensorrtllm"

FLAGS = ("exit-timeout-secs", "backend-config", "model-control-mode", "load-model", "metrics-port", "http-address")
"""Flags that every start uses."""


def reads_version(text: str) -> bool:
    """Is ``text`` a release that can serve context and generation apart behind Triton?"""
    match = _VERSION.fullmatch(text)
    if match is None:
        return False
    line, candidate = f"{match[1]}.{match[2]}", match[3]
    return line in LINES or (line == "1.3" and candidate is not None and int(candidate) <= LAST_CANDIDATE)


def probe_commands(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What to run on a node; ``command`` starts ``tritonserver``."""
    version = "from importlib import metadata; print(metadata.version('tensorrt_llm'))"
    return {
        "version": ("python3", "-c", version),
        "backend": ("ls", BACKEND),
        "server": (*command, "--help"),
    }


def judge_probe(answers: Mapping[str, str]) -> list[Finding]:
    """The output of :func:`probe_commands`: is the C++ backend of a release there that still has it?"""
    legacy = Finding(
        "legacy", True, "Triton's disaggregated serving was deleted upstream in July 2026 (docs/engines.md)"
    )
    said = answers.get("version", "").strip()
    version = next((word for word in reversed(said.split()) if _VERSION.fullmatch(word)), None)
    if version is None:
        first = Finding("version", False, f"tensorrt_llm says no version; its output: {said[-200:] or 'nothing'}")
    elif not reads_version(version):
        what = f"{version}: has no disaggregated model for Triton; use an image with TensorRT-LLM up to 1.2"
        first = Finding("version", False, f"{what}, or trtllm-serve")
    else:
        first = Finding(
            "version", True, f'{version}: set engine: {{name: triton, version: "{version}"}} in the sweep'
        )
    files = answers.get("backend", "")
    there = "libtriton_tensorrtllm.so" in files
    missing = f"no libtriton_tensorrtllm.so in {BACKEND}: the Python variants do not serve apart"
    second = Finding("backend", there, "TensorRT-LLM's C++ backend" if there else missing)
    lost = [flag for flag in FLAGS if f"--{flag}" not in answers.get("server", "")]
    words = ", ".join(f"--{flag}" for flag in lost)
    third = Finding("server", not lost, f"--help does not name {words}" if lost else "its flags are those used here")
    return [legacy, first, second, third]
