"""Secrets that are easily found wherever they should not be, and a server that shows them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

NEEDLE = "c4n4ry"
CANARY, OTHER = f"hf_{NEEDLE}4711", f'sk "{NEEDLE}" 0815'

SERVER = """\
import hashlib, os, sys
found = {name: os.environ.get(name, "") for name in ("HF_TOKEN", "LOGIN")}
print("environment:", found, flush=True)
print("digest:", *(hashlib.sha256(value.encode()).hexdigest() for value in found.values()), flush=True)
if os.environ.get("DIES"):
    sys.exit(f"no access with {found['HF_TOKEN']}")
from ratematch.emulator.trtllm.command import main
main(sys.argv[1:])
"""
"""The emulator, which shows its secrets first."""


def holders(folder: Path, *apart: str) -> list[str]:
    """Files below ``folder`` that hold a canary, as it is or compressed; ``apart``: what the user typed."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in apart:
            data = path.read_bytes()
            if path.suffix == ".zst":
                with pa.CompressedInputStream(pa.memory_map(str(path)), "zstd") as file:
                    data = file.read()
            if NEEDLE.encode() in data:
                found.append(name)
    return found


@contextlib.contextmanager
def watching_arguments() -> Iterator[list[str]]:
    """Command lines of any process of this machine in which a canary was seen meanwhile."""
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if NEEDLE.encode() in (words := file.read_bytes()):
                        seen.append(words.decode(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
