"""permessage-deflate: what is agreed on, and that inflating is bounded (RFC 7692)."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import WebSocketConfig
from engine.errors import ConfigError
from engine.wire.websocket.deflate import TAIL, Agreement, Deflater, InflateError, Inflater, OutOfRoom, negotiate
from engine.wire.websocket.extensions import Offer, parse_extensions

PLAIN = WebSocketConfig(server_window_bits=15, client_window_bits=15)
ROOM = 1 << 20


def answer(value: str, config: WebSocketConfig = PLAIN) -> str | None:
    agreed = negotiate(parse_extensions([value]), config)
    return None if agreed is None else agreed[1]


def inflate(inflater: Inflater, data: bytes, room: int = ROOM) -> bytes:
    made = inflater.inflate(data, room)
    return made + inflater.finish(room - len(made))


def deflater(bits: int = 15, *, takeover: bool = True) -> Deflater:
    return Deflater(bits, takeover=takeover, level=6, memory_level=5)


# -- negotiation ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10"),
        ('permessage-deflate; client_max_window_bits="10"', "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=9", "permessage-deflate; server_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=8", "permessage-deflate; server_max_window_bits=8"),
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        ('x; q="a, permessage-deflate", permessage-deflate', "permessage-deflate"),
        # A declined offer leaves nothing behind: the next one is judged by itself.
        (
            "permessage-deflate; server_no_context_takeover; unknown, permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9",
        ),
    ],
)
def test_an_offer_is_accepted_with_its_own_parameters(offer: str, expected: str) -> None:
    assert answer(offer) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        "client_max_window_bits=abc",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=09",
        "server_max_window_bits",
        "server_max_window_bits=0",
        "server_no_context_takeover=true",
        "client_no_context_takeover=1",
        "server_no_context_takeover; server_no_context_takeover",
        "unknown",
    ],
)
def test_an_offer_that_must_be_declined_is(parameters: str) -> None:
    assert answer(f"permessage-deflate; {parameters}") is None


def test_the_configuration_narrows_what_is_agreed() -> None:
    config = WebSocketConfig(
        server_window_bits=11, client_window_bits=10, server_context_takeover=False, client_context_takeover=False
    )
    agreed = negotiate(parse_extensions(["permessage-deflate; client_max_window_bits=12"]), config)
    assert agreed == (
        Agreement(False, False, 11, 10),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=10",
    )
    # Without client_max_window_bits in the offer it must not be in the answer (section 7.1.2.2).
    assert negotiate([Offer("permessage-deflate")], WebSocketConfig()) == (
        Agreement(server_window_bits=12),
        "permessage-deflate",
    )
    assert negotiate([Offer("permessage-deflate")], WebSocketConfig(compression=False)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("server_window_bits", 16), ("client_window_bits", 7), ("compression_level", 10), ("compression_memory_level", 0)],
)
def test_a_setting_that_zlib_cannot_do_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        WebSocketConfig(**{name: value})


# -- streams --------------------------------------------------------------------


@given(
    messages=st.lists(
        st.binary(max_size=3000) | st.sampled_from([b"abc" * 9000, b"", b"0123456789" * 500]), max_size=6
    ),
    bits=st.integers(8, 15),
    takeover=st.booleans(),
    piece=st.integers(1, 5000),
)
def test_messages_come_back_whatever_was_agreed(messages: list[bytes], bits: int, takeover: bool, piece: int) -> None:
    ours, theirs = deflater(bits, takeover=takeover), Inflater(bits, takeover=takeover)
    for message in messages:
        compressed = ours.compress(message)
        made = b"".join(theirs.inflate(compressed[i : i + piece], ROOM) for i in range(0, len(compressed), piece))
        assert made + theirs.finish(ROOM) == message


def test_what_is_compressed_stays_within_the_agreed_window() -> None:
    # The text repeats after 1000 bytes: a window of 2^9 cannot refer to that, and zlib says so if it is tried.
    import random

    block = random.Random(1).randbytes(1000)
    for bits in (8, 9):
        compressed = deflater(bits).compress(block * 3) + TAIL
        assert zlib.decompressobj(-9).decompress(compressed) == block * 3


def test_a_fragmented_message_is_one_stream() -> None:
    ours, theirs = deflater(), Inflater(15, takeover=True)
    for _ in range(2):
        compressed = ours.compress_fragment(b"hello ") + ours.compress_fragment(b"hello") + ours.finish()
        assert inflate(theirs, compressed) == b"hello hello"


def test_final_blocks_end_neither_the_message_nor_the_context() -> None:
    # RFC 7692 section 7.2.3.4; wsproto answers the message behind it with 1007.
    inflater = Inflater(15, takeover=True)
    assert inflate(inflater, bytes.fromhex("f348cdc9c9070000")) == b"Hello"
    # 7.2.3.2: "Hello" as a reference to the message before.
    assert inflate(inflater, bytes.fromhex("f200110000")) == b"Hello"
    assert inflate(inflater, bytes.fromhex("f348cdc9c90700")) == b"Hello"


def test_without_takeover_nothing_before_a_message_can_be_referred_to() -> None:
    inflater = Inflater(15, takeover=False)
    assert inflate(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"
    with pytest.raises(InflateError):
        inflate(inflater, bytes.fromhex("f200110000"))


def test_final_blocks_without_end_are_refused_soon() -> None:
    empty_final_block = b"\x03\x00"
    with pytest.raises(InflateError, match="final blocks"):
        Inflater(15, takeover=True).inflate(empty_final_block * 500_000, ROOM)


@pytest.mark.parametrize("data", [b"\xff", b"\x07", b"\x01\x05\x00\x00\x00hello"])
def test_what_is_no_compressed_data_is_refused(data: bytes) -> None:
    with pytest.raises(InflateError):
        inflate(Inflater(15, takeover=True), data)


def test_a_bomb_costs_no_more_than_the_room_that_it_has() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(50)) + stream.flush()
    assert len(bomb) < 60_000
    inflater = Inflater(15, takeover=True)
    tracemalloc.start()
    try:
        with pytest.raises(OutOfRoom):
            inflater.inflate(bomb, ROOM)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * ROOM


def test_what_the_inflater_remembers_is_bounded() -> None:
    ours, theirs = deflater(), Inflater(15, takeover=True)
    for number in range(3000):
        message = number.to_bytes(2, "big") * 20
        assert inflate(theirs, ours.compress(message)) == message
    assert theirs._recent_size < 2 << 15
    assert len(theirs._recent) <= 256


def test_a_message_for_many_can_be_read_in_any_context() -> None:
    ours, theirs = deflater(), Inflater(15, takeover=True)
    assert inflate(theirs, ours.compress(b"one two three")) == b"one two three"
    assert inflate(theirs, deflater().compress_alone(b"one two three")) == b"one two three"
    ours.forget()
    assert inflate(theirs, ours.compress(b"one two three")) == b"one two three"
