"""Secrets that are easily found wherever they should not be, and a server that shows them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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

PARROT = """\
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
words, secret = sys.argv, os.environ["HF_TOKEN"]

class Parrot(BaseHTTPRequestHandler):
    def answer(self, code, body):
        print("answering", secret, flush=True)
        self.send_response(code)
        self.send_header("X-Ratematch-Emulated", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        rows = {"/health": "", "/version": json.dumps({"version": secret}), "/metrics": "[]"}
        rows["/perf_metrics"] = json.dumps([{"request_id": secret, "perf_metrics": {secret: 1}}])
        rows["/prometheus/metrics"] = 'trtllm_x{name="%s"} 1\\n' % secret
        self.answer(200 if self.path in rows else 404, rows.get(self.path, secret))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(500, json.dumps({"error": "no access with " + secret}))

host, port = words[words.index("--host") + 1], int(words[words.index("--port") + 1])
ThreadingHTTPServer((host, port), Parrot).serve_forever()
"""
"""A server that repeats its secret wherever it says something, and refuses every request with it."""


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
            if path.suffix == ".parquet":
                data = repr(pq.read_table(path).to_pylist()).encode()
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
