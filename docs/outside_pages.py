"""A hook of mkdocs: pages that lie beside what they describe, and their links, work in the site as on a code host.

Reference pages stand where a reader of the code looks for them (``sweeps/README.md``), outside ``docs/``, and mkdocs
takes only what is in there. Every file of the repository that a page of the site links to becomes part of the site
here, pages and others alike, and every link between two files is written anew from page to page. A link to a file
that is not there stays as it is written, and mkdocs warns of it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
FRONT = {"README.md": "overview.md"}
"""Names in the site of files whose own name means something else there: a README is the page of its folder, and the
site's first page is ``docs/index.md``."""
ALSO = ("CHANGELOG.md",)
"""Pages of the site that no other page has to link to."""

LINK = re.compile(r"(\]\()(?!https?:|mailto:|#|/)([^)#\s]+)")
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^(?:[*+-]|1\.) ")


def in_site(path: str) -> str:
    """Name in the site of the file at ``path`` of the repository."""
    return path.removeprefix(DOCS) if path.startswith(DOCS) else FRONT.get(path, path)


def in_repository(name: str) -> str:
    """The inverse of :func:`in_site`."""
    outside = {in_the_site: path for path, in_the_site in FRONT.items()}
    if name in outside:
        return outside[name]
    return DOCS + name if (ROOT / DOCS / name).is_file() else name


def linked(path: str, link: str) -> str | None:
    """The file of the repository that ``link`` in the page at ``path`` leads to; of a folder, its README."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if (ROOT / target).is_dir():
        target += "/README.md"
    return target if not target.startswith("..") and (ROOT / target).is_file() else None


def outside_text(text: str, change: Callable[[str], str]) -> Iterator[str]:
    """The lines of a page, those outside of blocks of code changed."""
    fenced = False
    for line in text.splitlines():
        if FENCE.match(line):
            fenced = not fenced
        yield line if fenced else change(line)


def outside_files() -> list[str]:
    """Files outside ``docs/`` that the site's pages lead to, one from another."""
    waiting = [*(f"{DOCS}{page.name}" for page in sorted((ROOT / DOCS).glob("*.md"))), *ALSO]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.endswith(".md"):
            continue
        text = "\n".join(outside_text((ROOT / path).read_text("utf-8"), str))
        for match in LINK.finditer(text):
            target = linked(path, match[2])
            if target is not None and target not in seen:
                seen.add(target)
                waiting.append(target)
    return sorted(path for path in seen if not path.startswith(DOCS))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside ``docs/`` under the names they have in the repository."""
    for path in outside_files():
        files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links between files of the site, and lists as CommonMark reads them."""
    here = page.file.src_uri
    path = in_repository(here)

    def rewritten(match: re.Match[str]) -> str:
        target = linked(path, match[2])
        if target is None:
            return match[0]
        return match[1] + posixpath.relpath(in_site(target), posixpath.dirname(here) or ".")

    return "\n".join(spaced(outside_text(markdown, lambda line: LINK.sub(rewritten, line))))


def spaced(lines: Iterator[str]) -> Iterator[str]:
    """An empty line before each list that follows a paragraph: elsewhere a list begins without one, here only so."""
    before = ""
    fenced = False
    for line in lines:
        if FENCE.match(line):
            fenced = not fenced
        in_paragraph = bool(before.strip()) and not ITEM.match(before) and not before[0].isspace()
        if not fenced and ITEM.match(line) and in_paragraph:
            yield ""
        yield line
        before = line
