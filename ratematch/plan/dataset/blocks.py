"""How many tokens are behind one of a trace's ``hash_ids``."""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.plan.dataset.entry import DatasetError, Entry

HASH_BLOCK = 512
"""Prompt tokens behind one of Mooncake's ``hash_ids``."""


def find_block(entries: Sequence[Entry], lines: Sequence[int], said: int, by: str) -> int:
    """Tokens of a block: ``said`` (by ``by``), or what agrees with every line; 0 where no line has ``hash_ids``.

    A prompt of L tokens has ceil(L / block) ids, so each line bounds the block: L / n <= block < L / (n - 1). A power
    of two within all bounds is it; :data:`HASH_BLOCK` where single ids leave it open.

    Raises:
        DatasetError: a line that contradicts, with its number.
    """
    hashed = [
        (line, entry.isl or 0, len(entry.hash_ids))
        for line, entry in zip(lines, entries, strict=True)
        if entry.hash_ids
    ]
    if not hashed:
        return 0
    if said:
        for line, isl, ids in hashed:
            if not (ids - 1) * said < isl <= ids * said:
                needed = -(-isl // said)
                raise DatasetError(
                    f"{isl} input tokens are {needed} blocks of {said} tokens ({by}), and there are {ids} hash_ids; "
                    "the block length is wrong, or the line",
                    line,
                )
        return said
    low_line, low = max(((line, -(-isl // ids)) for line, isl, ids in hashed), key=lambda bound: bound[1])
    several = [(line, (isl - 1) // (ids - 1)) for line, isl, ids in hashed if ids > 1]
    if not several:
        return max(HASH_BLOCK, 1 << (low - 1).bit_length())
    high_line, high = min(several, key=lambda bound: bound[1])
    if low > high:
        raise DatasetError(
            f"its hash_ids are blocks of {high} tokens at most, and those of line {low_line} of {low} at least: no "
            "block length fits both, so what prompts share cannot be known; correct the lines or say the block "
            "length (--hash-block, hash_block in a sweep)",
            high_line,
        )
    power = 1 << (low - 1).bit_length()
    if power <= high:
        return power
    if low == high:
        return low
    raise DatasetError(
        f"blocks of {low} to {high} tokens agree with its hash_ids; say the block length (--hash-block, hash_block "
        "in a sweep)",
        high_line,
    )
