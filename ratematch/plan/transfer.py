"""What it takes to hand one request's KV cache over, and what that costs the server that fetches it.

Moving the bytes runs beside the steps of a generation server. Starting it does not where the server's own step thread
posts it: each piece costs that thread some microseconds, in which no request decodes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferWork:
    """One request's KV transfer as the step thread of a gen server has it, known before anything runs.

    ``pieces``: memory regions that are posted one by one. ``buffers``: staging buffers that are filled and emptied in
    turn. ``layers``: layers that are sent apart from each other. ``bytes_b``: that the thread itself copies. 0: none.
    """

    pieces: float = 0.0
    buffers: float = 0.0
    layers: float = 0.0
    bytes_b: float = 0.0


@dataclass(frozen=True)
class TransferCosts:
    """Seconds of a gen server's step thread for each part of a :class:`TransferWork`. ``far_piece_s``: a piece
    between NVLink domains. ``source``: where the figures come from. 0: costs nothing, or is not known."""

    source: str
    piece_s: float = 0.0
    far_piece_s: float = 0.0
    buffer_s: float = 0.0
    layer_s: float = 0.0
    byte_s: float = 0.0

    def post_s(self, work: TransferWork, *, near: bool) -> float:
        """Seconds of one request. ``near``: within one NVLink domain."""
        piece_s = self.piece_s if near else self.far_piece_s
        return (
            work.pieces * piece_s
            + work.buffers * self.buffer_s
            + work.layers * self.layer_s
            + work.bytes_b * self.byte_s
        )
