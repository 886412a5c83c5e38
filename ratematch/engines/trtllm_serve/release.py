"""TensorRT-LLM versions: read from any text that names one, ordered, and compared with where something came or went.

What is named is seldom one release: ``1.3`` is any release of a line. So a version is a range (:class:`Version`), and
a question about it has three answers: yes for all of it, no for all of it, or not known, because some of it lies
where
the public sources do not tell, or because it has releases of both kinds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

LINES = ("1.2", "1.3", "1.4")
"""Release lines that are known. 1.3 has release candidates only; a version after the last line is taken for that."""

NEWEST = "main"
"""Names the newest line that is known."""

LAST = 10**6
"""Greater than any number of a patch, a candidate or a post release: a final release comes after its candidates."""

Release = tuple[int, int, int, int, int]
"""Major, minor, patch, release candidate (:data:`LAST`: the final release), post release; tuples order as
releases."""

FIRST: Release = (1, 2, 0, 0, 0)

_VERSION = re.compile(
    r"(?P<release>(?P<major>\d{1,4})\.(?P<minor>\d{1,4})"
    r"(?:\.(?P<patch>\d{1,4})(?:[.-]?rc(?P<rc>\d{1,4}))?(?:[.-]?post(?P<post>\d{1,4}))?(?P<dev>[.-]?dev\d*)?)?)"
    r"(?:[+_-][a-z0-9][\w.+-]*)?",
    re.IGNORECASE,
)
"""``1.3``, ``1.3.0rc14``, ``1.3.0rc14.post1``, ``1.4.0rc4+abc123``, and what builders put behind: ``-arm64``."""

_IN_TAG = re.compile(r"(?<![\d.])v?(\d+\.\d+(?:\.\d+)?(?:[.-]?rc\d+)?(?:[.-]?post\d+)?)(?![\d.]*\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Version:
    """The releases from ``first`` to ``last``, both included. ``text``: as it was given, without what a builder put
    behind it."""

    text: str
    first: Release
    last: Release

    @property
    def line(self) -> str:
        """Its release line; the newest that is known for a later one."""
        line = f"{self.first[0]}.{self.first[1]}"
        return line if line in LINES else LINES[-1]


@cache
def read_version(text: str) -> Version:
    """The releases that ``text`` means: a release, a line, ``main``, or the tag or whole name of an image.

    Raises:
        ValueError: it names none, or one before 1.2.
    """
    name = text.strip()
    if name == NEWEST:
        return Version(NEWEST, *_span(LINES[-1]))
    if "/" in name or ":" in name or "#" in name:
        name = _tag(name)
    match = _VERSION.fullmatch(name.removeprefix("v"))
    if match is None or (first := _first(match)) < FIRST:
        raise ValueError(
            f"TensorRT-LLM version {text!r} is not known: use {', '.join(LINES)}, {NEWEST}, or a release"
        )
    # A build of no release (1.3.0.dev7) may be of any state of its line.
    whole = match["patch"] is None or (match["dev"] is not None and match["rc"] is None)
    return Version(match["release"], *(_span(f"{first[0]}.{first[1]}") if whole else (first, first)))


def _first(match: re.Match[str]) -> Release:
    major, minor, patch, rc, post = (match[part] for part in ("major", "minor", "patch", "rc", "post"))
    if patch is None:
        return _span(f"{major}.{minor}")[0]
    return int(major), int(minor), int(patch), LAST if rc is None else int(rc), int(post or 0)


def _span(line: str) -> tuple[Release, Release]:
    major, minor = (int(part) for part in line.split("."))
    # 1.4 is known from its first candidate that was published on.
    return (major, minor, 0, 1 if line == "1.4" else 0, 0), (major, minor, LAST, LAST, LAST)


def _tag(image: str) -> str:
    """The version in the tag of an image, or in its name where the tag has none. Runtimes of Dynamo carry Dynamo's
    version, which says nothing of the engine's."""
    if "dynamo" in image.lower():
        return ""
    name = image.rpartition("/")[2] if "@" not in image else image.partition("@")[0].rpartition("/")[2]
    found = _IN_TAG.findall(name.rpartition(":")[2]) or _IN_TAG.findall(name)
    return str(found[0]) if found else ""


def is_version(text: str) -> bool:
    """Does ``text`` name a version that is known?"""
    try:
        read_version(text)
    except ValueError:
        return False
    return True


def named_version(text: str) -> str:
    """The version in ``text``, as it is written there, without what a builder put behind it.

    Raises:
        ValueError: it names none that is known.
    """
    return read_version(text).text


TYPICAL = {"1.2": "1.2.0", "1.3": "1.3.0rc17", "1.4": "1.4.0rc4"}
"""A release of each line, for what must name one where only the line is given."""


def one_release(text: str) -> str:
    """The release that ``text`` means, or a typical one of the releases that it means."""
    version = read_version(text)
    return version.text if version.first == version.last else TYPICAL[version.line]


@dataclass(frozen=True)
class Border:
    """A change between two releases: the old holds through ``before``, the new from ``after`` on; between them the
    public sources do not tell. Releases as texts: ``1.2`` ends with its line, and begins with it."""

    before: str | None
    after: str

    def passed(self, version: Version) -> bool | None:
        """Does the new hold for ``version``? ``None``: not known, or for a part of it only."""
        if version.first >= read_version(self.after).first:
            return True
        if self.before is None:
            return False if version.last < read_version(self.after).first else None
        return False if version.last <= read_version(self.before).last else None

    def __str__(self) -> str:
        return f"in {self.after}" if self.before is None else f"between {self.before} and {self.after}"


@cache
def read_border(text: str) -> Border:
    """``1.3.0rc27`` (sharp: the first release that has the new) or ``1.3.0rc22..1.3.0rc27`` (somewhere between)."""
    before, dots, after = str(text).rpartition("..")
    return Border(before if dots else None, after)


def held(version: Version, since: str | None = None, until: str | None = None) -> bool | None:
    """Is there, in ``version``, what came at the border ``since`` and went at ``until``? ``None``: not known."""
    came = True if since is None else read_border(since).passed(version)
    gone = False if until is None else read_border(until).passed(version)
    if came is False or gone is True:
        return False
    return True if came and gone is False else None
