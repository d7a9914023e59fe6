"""Pieces of a message: whole again in the order in which they came, whatever their sizes."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from engine.wire.websocket.pieces import Pieces

SIZES = st.sampled_from([0, 1, 4095, 4096, 4097, 70_000, 3_000_000])


@given(st.lists(st.tuples(SIZES, st.integers(0, 255))))
def test_what_was_written_comes_back(written: list[tuple[int, int]]) -> None:
    pieces, expected = Pieces(), b""
    for size, byte in written:
        piece = bytes([byte]) * size
        pieces.write(piece)
        expected += piece
        assert pieces.getvalue() == expected


def test_a_huge_message_is_not_in_memory_twice() -> None:
    pieces, size = Pieces(), 65_536
    tracemalloc.start()
    try:
        for _ in range(256):
            pieces.write(bytes(size))
        assert len(pieces.getvalue()) == 256 * size
        assert tracemalloc.get_traced_memory()[1] < 1.3 * 256 * size
    finally:
        tracemalloc.stop()


def test_many_small_pieces_cost_what_they_hold() -> None:
    pieces = Pieces()
    tracemalloc.start()
    try:
        for index in range(100_000):
            pieces.write(index.to_bytes(4, "big"))
        assert tracemalloc.get_traced_memory()[0] < 600_000
        assert len(pieces.getvalue()) == 400_000
    finally:
        tracemalloc.stop()
