"""``python -m tests.fuzz.guided TARGET``: bytes from a fuzzer that follows what code they reach.

TARGET is ``wire`` (the reader of answers), ``imports`` (results of other tools) or ``recipes``. The words after it
are libFuzzer's: ``-runs=1000000``, ``-max_total_time=3600``, or a folder with a corpus, to which it adds. Needs the
package ``atheris`` (Linux, up to Python 3.13 as of its release 3.0), which is no dependency of ours.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

MISSING = "atheris is not installed; nothing was tried. To have it: pip install atheris\n"
IMPORTED = ("result.json", "profile_export.jsonl", "pareto.csv")

Try = Callable[[bytes], None]


def _wire(_: Path) -> tuple[Try, Iterable[bytes]]:
    from tests.fuzz.wire import check_damaged

    def try_answer(data: bytes) -> None:
        """The first byte says where reads end and how the connection does; the rest is the answer."""
        if not data:
            return
        step, broken, wire = 1 + (data[0] >> 1), bool(data[0] & 1), data[1:]
        check_damaged(wire, [*range(step, len(wire), step), len(wire)], broken)

    return try_answer, ()


def _imports(folder: Path) -> tuple[Try, Iterable[bytes]]:
    from tests.fuzz.kinds import imports

    def try_file(data: bytes) -> None:
        """The first byte says what the file is called; the rest is its content."""
        if data:
            imports.run((IMPORTED[data[0] % len(IMPORTED)], data[1:]), folder)

    return try_file, (bytes([number]) + content for number, content in imports.whole_files())


def _recipes(folder: Path) -> tuple[Try, Iterable[bytes]]:
    from tests.fuzz.kinds import recipes

    def try_file(data: bytes) -> None:
        recipes.run(("recipe", data.decode("utf-8", "surrogateescape")), folder)

    return try_file, (text.encode() for text in recipes.texts())


TARGETS = {"wire": _wire, "imports": _imports, "recipes": _recipes}


def main() -> int:
    """Never comes back where atheris is there: it ends the process, with libFuzzer's exit code."""
    target = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "wire"
    if target not in TARGETS:
        sys.stderr.write(f"there is no target {target!r}; there are {', '.join(TARGETS)}\n")
        return 2
    try:
        import atheris
    except ImportError:
        sys.stderr.write(MISSING)
        return 2
    with tempfile.TemporaryDirectory(prefix="ratematch-guided-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        # Until the end: verbs load most of what they need when they are called.
        with atheris.instrument_imports(include=["ratematch", "yaml"]):
            try_one, whole = TARGETS[target](Path(folder))
            for number, content in enumerate(whole):
                (corpus / str(number)).write_bytes(content)
            own = [word for word in sys.argv[1:] if not word.startswith("-")]
            atheris.Setup([*sys.argv, *([] if own else [str(corpus)])], try_one)
            atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
