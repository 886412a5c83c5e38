"""How many tokens are behind one of a trace's ``hash_ids``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ratematch.plan.dataset.entry import DatasetError, Entry

HASH_BLOCK = 512
"""Prompt tokens behind one of Mooncake's ``hash_ids``."""


WHOLE_BLOCKS_ONLY = "its hash_ids are of whole blocks only: what follows them in a prompt is its own"


def find_block(entries: Sequence[Entry], lines: Sequence[int], said: int, by: str) -> tuple[int, str]:
    """Tokens of a block, and what to note: ``said`` (by ``by``), or what agrees with every line; 0 where no line has
    ``hash_ids``.

    A prompt of L tokens has ceil(L / block) ids, so each line bounds the block: L / n <= block < L / (n - 1). A power
    of two within all bounds is it; :data:`HASH_BLOCK` where single ids leave it open. Some tools leave the last,
    incomplete block out: then floor(L / block) must agree with every line.

    Raises:
        DatasetError: a line that contradicts, with its number.
    """
    hashed = [
        _Hashed(line, entry.isl or 0, len(entry.hash_ids))
        for line, entry in zip(lines, entries, strict=True)
        if entry.hash_ids
    ]
    if not hashed:
        return 0, ""
    return _check_block(hashed, said, by) if said else _infer_block(hashed)


class _Hashed(NamedTuple):
    """A prompt of ``isl`` tokens with ``ids`` hash_ids."""

    line: int
    isl: int
    ids: int


def _check_block(hashed: Sequence[_Hashed], block: int, by: str) -> tuple[int, str]:
    wrong = next((one for one in hashed if -(-one.isl // block) != one.ids), None)
    if wrong is None:
        return block, ""
    if all(one.isl // block == one.ids for one in hashed):
        return block, WHOLE_BLOCKS_ONLY
    raise DatasetError(
        f"{wrong.isl} input tokens are {-(-wrong.isl // block)} blocks of {block} tokens ({by}), and there are "
        f"{wrong.ids} hash_ids; the block length is wrong, or the line",
        wrong.line,
    )


def _infer_block(hashed: Sequence[_Hashed]) -> tuple[int, str]:
    lowest = max(hashed, key=lambda one: -(-one.isl // one.ids))
    low = -(-lowest.isl // lowest.ids)
    several = [one for one in hashed if one.ids > 1]
    if not several:
        return max(HASH_BLOCK, _power(low)), ""
    highest = min(several, key=lambda one: (one.isl - 1) // (one.ids - 1))
    high = (highest.isl - 1) // (highest.ids - 1)
    if low <= high:
        if _power(low) <= high or low == high:
            return (_power(low) if _power(low) <= high else low), ""
        raise DatasetError(
            f"blocks of {low} to {high} tokens agree with its hash_ids; say the block length (--hash-block, "
            "hash_block in a sweep)",
            highest.line,
        )
    least = max(one.isl // (one.ids + 1) + 1 for one in hashed)
    most = min(one.isl // one.ids for one in hashed)
    if least <= most and _power(least) <= most:
        return _power(least), WHOLE_BLOCKS_ONLY
    raise DatasetError(
        f"its hash_ids are blocks of {high} tokens at most, and those of line {lowest.line} of {low} at least: no "
        "block length fits both, so what prompts share cannot be known; correct the lines or say the block length "
        "(--hash-block, hash_block in a sweep)",
        highest.line,
    )


def _power(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, number - 1).bit_length()
