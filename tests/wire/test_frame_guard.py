"""The frame guard: every rule that one frame can break, and every budget it spends."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Bucket, Http2Config
from engine.errors import EngineError, Http2Code, LimitExceeded, RemoteProtocolError
from engine.wire.frame_guard import FrameGuard
from engine.wire.http2_budgets import Budgets, TokenBucket
from tests.wire.http2_peer import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    frame,
    settings,
)


def open_guard(**options):
    config = Http2Config(**options)
    guard = FrameGuard(config, Budgets(config))
    assert run(guard, PREFACE + settings()) == [(SETTINGS, 0, 0, b"", 0)]
    return guard


def run(guard, wire, now=0.0):
    guard.feed(wire)
    frames = []
    while (found := guard.next_frame(now)) is not None:
        frames.append(found)
    return frames


def refused(guard, wire, now=0.0):
    with pytest.raises(EngineError) as caught:
        run(guard, wire, now)
    return caught.value


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(DATA, 0, 0, b"x"), Http2Code.PROTOCOL_ERROR),
        (frame(DATA, 8, 1, b""), Http2Code.FRAME_SIZE_ERROR),
        (frame(DATA, 8, 1, b"\x05abcd"), Http2Code.PROTOCOL_ERROR),
        (frame(HEADERS, 4, 0, b"\x82"), Http2Code.PROTOCOL_ERROR),
        (frame(HEADERS, 4 | 8, 1, b"\x02\x82"), Http2Code.PROTOCOL_ERROR),
        (frame(HEADERS, 4 | 0x20, 1, b"\0\0\0"), Http2Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, 4 | 8 | 0x20, 1, b"\x01\0\0\0\0\x10"), Http2Code.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), Http2Code.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, bytes(4)), Http2Code.FRAME_SIZE_ERROR),
        (frame(PRIORITY, 0, 1, struct.pack(">LB", 1, 0)), Http2Code.PROTOCOL_ERROR),
        (frame(RST, 0, 0, bytes(4)), Http2Code.PROTOCOL_ERROR),
        (frame(RST, 0, 1, bytes(5)), Http2Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), Http2Code.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), Http2Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 1, 0, bytes(6)), Http2Code.FRAME_SIZE_ERROR),
        (frame(PUSH, 4, 1, bytes(5)), Http2Code.PROTOCOL_ERROR),
        (frame(PING, 0, 1, bytes(8)), Http2Code.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), Http2Code.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), Http2Code.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), Http2Code.FRAME_SIZE_ERROR),
        (frame(WINDOW, 0, 1, bytes(3)), Http2Code.FRAME_SIZE_ERROR),
        (frame(CONTINUATION, 4, 1, b"x"), Http2Code.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"x") + frame(CONTINUATION, 4, 3, b"x"), Http2Code.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"x") + frame(PING, 0, 0, bytes(8)), Http2Code.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"x") + frame(0x77, 0, 0), Http2Code.PROTOCOL_ERROR),
    ],
)
def test_a_frame_that_breaks_the_format_ends_the_connection_with_its_code(wire, code):
    error = refused(open_guard(), wire)
    assert isinstance(error, RemoteProtocolError)
    assert error.http2_code is code


def test_an_oversize_frame_is_refused_from_its_header():
    error = refused(open_guard(), frame(DATA, 0, 1, bytes(16_385))[:9])
    assert error.http2_code is Http2Code.FRAME_SIZE_ERROR
    assert "http2.max_frame_size" in str(error)


def test_padding_and_priority_fields_are_cut_off_and_padding_stays_in_the_length():
    guard = open_guard()
    assert run(guard, frame(DATA, 8, 1, b"\x02ab\0\0")) == [(DATA, 8, 1, b"ab", 5)]
    assert run(guard, frame(HEADERS, 4 | 8 | 0x20, 1, b"\x01\0\0\0\0\x10\x82\0"))[0][3] == b"\x82"


def test_a_header_block_leaves_the_guard_as_one_frame():
    wire = frame(HEADERS, 1, 1, b"ab") + frame(CONTINUATION, 0, 1, b"cd") + frame(CONTINUATION, 4, 1, b"")
    assert run(open_guard(), wire) == [(HEADERS, 1, 1, b"abcd", 0)]


def test_headers_that_depend_on_themselves_are_marked():
    (found,) = run(open_guard(), frame(HEADERS, 4 | 0x20, 1, struct.pack(">LB", 1, 0) + b"\x82"))
    assert found[1] & 0x100


def test_the_reserved_bit_of_the_stream_id_is_ignored():
    assert run(open_guard(), frame(DATA, 1, 0x8000_0001, b"x")) == [(DATA, 1, 1, b"x", 1)]


def test_priority_and_unknown_frames_are_dropped():
    wire = frame(PRIORITY, 0, 3, bytes(5)) + frame(0x10, 0, 0, b"x") + frame(0xFA, 0, 0, b"grease")
    assert run(open_guard(), wire) == []


def test_the_first_frame_must_be_settings():
    config = Http2Config()
    assert "SETTINGS" in str(refused(FrameGuard(config, Budgets(config)), PREFACE + frame(PING, 0, 0, bytes(8))))
    assert "SETTINGS" in str(refused(FrameGuard(config, Budgets(config)), PREFACE + settings(ack=True)))


def test_a_wrong_preface_is_refused_at_its_first_wrong_byte_however_it_is_cut():
    config = Http2Config()
    assert refused(FrameGuard(config, Budgets(config)), b"PRX")
    guard = FrameGuard(config, Budgets(config))
    assert run(guard, b"P") == run(guard, b"R") == []
    assert refused(guard, b"X")


def test_unknown_settings_are_stripped_and_the_header_table_is_clamped():
    wire = settings((1, 2**32 - 1), (0x9, 1), (0xABCD, 7), (4, 70_000))
    ((_, _, _, payload, _),) = run(open_guard(), wire)
    assert list(struct.iter_unpack(">HL", payload)) == [(1, 4096), (4, 70_000)]


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("http2.max_settings_entries", settings(*[(0xABCD, 0)] * 33)),
        ("http2.max_header_block", frame(HEADERS, 0, 1, bytes(16_384)) + frame(CONTINUATION, 0, 1, bytes(16_384)) * 4),
        ("http2.max_continuations", frame(HEADERS, 0, 1, b"x") + frame(CONTINUATION, 0, 1, b"x") * 9),
        ("http2.max_continuations", frame(HEADERS, 0, 1, b"x") + frame(CONTINUATION, 0, 1, b"")),
        ("http2.max_empty_data", frame(DATA, 0, 1) * 11),
        ("http2.max_empty_data", (frame(DATA, 0, 1) * 10 + frame(DATA, 0, 1, b"x")) * 11),
        ("http2.max_empty_data", frame(DATA, 8, 1, b"\x01\0") * 11),
        ("http2.settings", settings() * 21),
        ("http2.pings", frame(PING, 0, 0, bytes(8)) * 51),
        ("http2.glitches", frame(PRIORITY, 0, 3, bytes(5)) * 301),
        ("http2.glitches", frame(0xFA, 0, 0) * 251),
        ("http2.max_window_updates", frame(WINDOW, 0, 0, b"\0\0\0\1") * 6),
        ("http2.max_overhead", (frame(PRIORITY, 0, 3, bytes(5)) * 1000 + frame(0xFA, 0, 0, bytes(16_000))) * 512),
    ],
)
def test_a_flood_is_refused_by_the_name_of_its_setting(name, wire):
    generous = {"glitches": Bucket(1e9, 0)} if name == "http2.max_overhead" else {}
    error = refused(open_guard(**generous), wire)
    assert isinstance(error, LimitExceeded)
    assert error.name == name
    assert name in str(error)


def test_just_below_its_limits_everything_passes():
    guard = open_guard()
    wire = (
        settings(*[(0xABCD, 0)] * 32) * 19
        + frame(PING, 0, 0, bytes(8)) * 50
        + frame(DATA, 0, 1) * 10
        + frame(HEADERS, 0, 1, bytes(16_384))
        + frame(CONTINUATION, 0, 1, bytes(16_384)) * 2
        + frame(CONTINUATION, 0, 1, bytes(16_383))
        + frame(CONTINUATION, 4, 1, b"x")
        + frame(WINDOW, 0, 0, b"\0\0\0\1") * 7
        + frame(PRIORITY, 0, 3, bytes(5)) * 300
    )
    assert len(run(guard, wire)) == 19 + 50 + 10 + 1 + 7


def test_a_bucket_refills_with_time_and_no_further_than_its_burst():
    bucket = TokenBucket(Bucket(2, 1))
    assert [bucket.spend(100.0) for _ in range(3)] == [True, True, False]
    assert bucket.spend(101.5, 0.5)
    assert not bucket.spend(101.5)
    assert [bucket.spend(1000.0) for _ in range(3)] == [True, True, False]


def test_what_we_send_pays_for_pings_and_window_updates():
    config = Http2Config()
    budgets = Budgets(config)
    guard = FrameGuard(config, budgets)
    run(guard, PREFACE + settings())
    for _ in range(4):
        run(guard, frame(PING, 0, 0, bytes(8)) * 50)
        budgets.answered(1, 20)
    run(guard, frame(WINDOW, 0, 0, b"\0\0\0\1") * 85)
    assert refused(guard, frame(WINDOW, 0, 0, b"\0\0\0\1")).name == "http2.max_window_updates"


def test_a_partial_header_block_is_seen_as_open():
    guard = open_guard()
    assert not guard.header_block_open
    run(guard, frame(HEADERS, 4, 1, b"\x82\x86")[:6])
    assert guard.header_block_open
    run(guard, frame(HEADERS, 4, 1, b"\x82\x86")[6:])
    assert not guard.header_block_open
    run(guard, frame(HEADERS, 0, 3, b"\x82"))
    assert guard.header_block_open
    assert guard.incomplete


FRAMES = st.builds(
    frame,
    st.sampled_from([0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 0x10, 0xFF]),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2C]),
    st.integers(0, 5),
    st.one_of(st.sampled_from([b"", bytes(4), bytes(5), bytes(6), bytes(8)]), st.binary(max_size=40)),
)


@given(st.lists(FRAMES, max_size=20), st.lists(st.integers(0, 400), max_size=10))
def test_the_same_bytes_give_the_same_frames_however_they_are_cut(frames, cuts):
    wire = PREFACE + settings() + b"".join(frames)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]

    def collect(pieces):
        config = Http2Config(glitches=Bucket(3, 0), pings=Bucket(3, 0), settings=Bucket(3, 0))
        guard = FrameGuard(config, Budgets(config))
        found = []
        try:
            for piece in pieces:
                guard.feed(piece)
                while (one := guard.next_frame(0.0)) is not None:
                    found.append(one)
        except EngineError as error:
            return found, str(error)
        return found, guard.incomplete

    whole = collect([wire])
    assert collect([wire[a:b] for a, b in itertools.pairwise(edges)]) == whole
    assert collect([wire[i : i + 1] for i in range(len(wire))]) == whole
