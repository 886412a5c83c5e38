"""One line of a server's log: at which level it was written, when, and whether what it tells of was dealt with.

Servers, libraries, MPI and Slurm write into one file, each in its own form; a level is therefore looked for where
any of them puts it, at the beginning of a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Level = Literal["error", "warning", "info", "none"]

Time = tuple[str, str, str]
"""Month, day and time of day, as text that sorts by time."""

LONGEST = 2000
"""Characters of a line that are read: of a longer one the first three quarters and the last of them."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

_LEVEL = re.compile(
    # NCCL's own level of errors is called WARN.
    r"(?P<error>\bNCCL WARN\b|\[(?:E|F|ERROR|FATAL|CRITICAL)\]|\[[EF]\d{3,4} |(?:^|[ \])])[EF]\d{4} \d\d:"
    r"|(?<![\w=/])(?:ERROR|FATAL|CRITICAL)(?![\w=])|\b(?:srun|slurmstepd\S*|sbatch|salloc): (?:error|fatal)|\berror: "
    r"|\blevel=(?:error|fatal)|\b[A-Za-z]+(?:Error|Exception)\b)"
    r"|(?P<warning>\[(?:W|WARN|WARNING|warning ?)\]|\[W\d{3,4} |(?:^|[ \])])W\d{4} \d\d:"
    r"|(?<![\w=/])(?:WARN|WARNING)(?![\w=])|\b[A-Za-z]*Warning\b|\bwarning: |\blevel=warn"
    r"|\"level\": ?\"warn)"
    r"|(?P<info>\[(?:I|D|V|INFO|DEBUG|VERBOSE|TRACE|info ?)\]|\[[IVD]\d{3,4} |(?:^|[ \])])[IVD]\d{4} \d\d:"
    r"|(?<![\w=/])(?:INFO|DEBUG|TRACE)(?![\w=])|\blevel=(?:info|debug)"
    r"|\"level\": ?\"(?:info|debug|trace))"
)

_LEVEL_WITHIN = 160
"""Characters at the beginning of a line in which its level stands; what comes later is what it tells."""

_DEALT_WITH = re.compile(
    r"(?i)falling back|fell back|falls back|fall back to|using bounce buffers|\bautotun|failed when profiling"
    r"|\bignor(?:ed|ing)\b|^ignore |\bskipp(?:ed|ing)\b|retrying|(?<!last )\bretry \d+ ?(?:/|of)|will retry"
    r"|not fatal|non-fatal|harmless|continuing without|(?:failed|unable) to import|could not import"
    r"|going to /tmp instead"
)

_MESSAGE = 600
"""Characters of a line, half at each end, in which it is looked for whether its trouble was dealt with."""

_HEADER = "Traceback (most recent call last)"

_TOLD_OF_FAILURE = re.compile(r"(?i)fail|error|exception|cannot|could not|couldn't|unable|caught")

_TIMES = (
    re.compile(r"\[(?P<month>\d\d)/(?P<day>\d\d)/\d{4}-(?P<clock>\d\d:\d\d:\d\d)"),
    re.compile(r"\b20\d\d-(?P<month>\d\d)-(?P<day>\d\d)[T ](?P<clock>\d\d:\d\d:\d\d)"),
    re.compile(r"\b(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)"),
)

_TIME_WITHIN = 40
"""Lines before one without a time in which its time is looked for."""


def shorten(line: str) -> str:
    """``line`` without colours, and with its middle left out where it is longer than ``LONGEST`` characters."""
    if len(line) > LONGEST:
        line = f"{line[: LONGEST * 3 // 4]} ... {line[-LONGEST // 4 :]}"
    return _COLOURS.sub("", line) if "\x1b" in line else line


def find_level(line: str) -> Level:
    """The level that ``line`` carries; ``none`` where it carries none, as a bare message of a library does."""
    match = _LEVEL.search(line[:_LEVEL_WITHIN])
    if match is None:
        return "none"
    return "error" if match["error"] else "warning" if match["warning"] else "info"


def was_dealt_with(lines: Sequence[str], at: int) -> bool:
    """Did whoever wrote line ``at`` go on after what it tells of?

    So it is for warnings, notes and what is said to be tried again or done another way, and for tracebacks that such
    a line introduces or that Python prints and ignores.
    """
    line = shorten(lines[at])
    if find_level(line) == "info" or _calms(line):
        return True
    if line[:1].isspace() and at and _calms(shorten(lines[at - 1])):
        return True
    return _is_in_a_printed_traceback(lines, at)


def find_time(lines: Sequence[str], at: int) -> Time | None:
    """Month, day and time of day of line ``at``, or of the last line before it that has one; ``None`` where none has.

    Clocks of one cluster agree, so that logs of several ranks can be put in order by it.
    """
    for line in reversed(lines[max(0, at - _TIME_WITHIN) : at + 1]):
        head = shorten(line)[:_LEVEL_WITHIN]
        for form in _TIMES:
            if match := form.search(head):
                return match["month"], match["day"], match["clock"]
    return None


def _calms(line: str) -> bool:
    message = line if len(line) <= _MESSAGE else line[: _MESSAGE // 2] + line[-_MESSAGE // 2 :]
    return find_level(line) == "warning" or _DEALT_WITH.search(message) is not None


def _is_in_a_printed_traceback(lines: Sequence[str], at: int) -> bool:
    """Is line ``at`` the end of a traceback that was printed by something that then went on?"""
    for header in range(at - 1, max(-1, at - 80), -1):
        line = lines[header]
        if _HEADER in line:
            break
        if line and not line[0].isspace():
            return False
    else:
        return False
    before = shorten(lines[header - 1]) if header else ""
    if before.startswith("Exception ignored in"):
        return True
    if not (_calms(before) and _TOLD_OF_FAILURE.search(before)):
        return False
    return any(find_level(line) == "info" for line in lines[at + 1 : at + 40])
