"""``python -m tests.fuzz.guided``: the reader of answers, fed by a fuzzer that follows what code it reaches.

Needs the package ``atheris`` (Linux, up to Python 3.13 as of its release 3.0), which is no dependency of ours.
Arguments are libFuzzer's: ``-runs=1000000``, ``-max_total_time=3600``, or a folder with a corpus.
"""

from __future__ import annotations

import sys

from tests.fuzz.wire import check_damaged


def try_answer(data: bytes) -> None:
    """The first byte says where reads end and how the connection does; the rest is the answer."""
    if not data:
        return
    step, broken, wire = 1 + (data[0] >> 1), bool(data[0] & 1), data[1:]
    check_damaged(wire, [*range(step, len(wire), step), len(wire)], broken)


def main() -> int:
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed; nothing was tried. To have it: pip install atheris\n")
        return 2
    atheris.instrument_all()
    atheris.Setup(sys.argv, try_answer)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
