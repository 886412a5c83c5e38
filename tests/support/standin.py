"""A stand-in for ``vllm serve`` on a GPU that is not there: it answers, and notes who else has the GPU.

Run as a script, with nothing of ratematch imported. ``STAND_IN`` names a folder: a file ``gpu-N`` there is a server
on GPU N, ``clash-N`` that a second one was started on it, ``log`` every start and end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN"])
GPUS = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
if GPUS == [""]:  # what CUDA makes of an empty list, and vLLM of that
    sys.exit("AssertionError: DP adjusted local rank 0 is out of bounds for 0 devices.")


class Handler(BaseHTTPRequestHandler):
    """One token after another, as fast as it can."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        known = {"/health": b"{}", "/version": b'{"version": "0.24.0"}'}
        self._answer(200 if self.path in known else 404, known.get(self.path, b"{}"), "application/json")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        count, prompt = asked["max_tokens"], asked["prompt"]
        events = [{"choices": [{"index": 0, "text": "x", "finish_reason": None}]} for _ in range(count)]
        events[-1]["choices"][0]["finish_reason"] = "length"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            time.sleep(0.002)
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        self.wfile.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
        self.close_connection = True

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def note(what: str) -> None:
    with (FOLDER / "log").open("a") as log:
        log.write(f"{time.time()} {what} {','.join(GPUS)} {' '.join(sys.argv)}\n")


def main() -> None:
    for gpu in GPUS:
        try:
            (FOLDER / f"gpu-{gpu}").touch(exist_ok=False)
        except FileExistsError:
            (FOLDER / f"clash-{gpu}").touch()

    def leave(number: int, frame: object) -> None:
        note("end")
        for gpu in GPUS:
            (FOLDER / f"gpu-{gpu}").unlink(missing_ok=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    note("start")
    host, port = (sys.argv[sys.argv.index(flag) + 1] for flag in ("--host", "--port"))
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
