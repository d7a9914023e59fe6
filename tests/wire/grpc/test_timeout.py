from __future__ import annotations

import math

import pytest

from engine.wire.grpc.timeout import decode, encode


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"1M", 60),
        (b"1S", 1),
        (b"1m", 0.001),
        (b"1u", 1e-6),
        (b"1n", 1e-9),
        (b"0S", 0),
        (b"00000001S", 1),
        (b"99999999H", 99999999 * 3600),
        (b"299m", 0.299),
    ],
)
def test_every_unit_is_read(value: bytes, seconds: float) -> None:
    assert decode(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"S",
        b"1",
        b"1s",
        b"1h",
        b"1U",
        b"1ms",
        b"123456789n",
        b"000000001S",
        b"+5S",
        b"-1S",
        b" 5S",
        b"5 S",
        b"5S ",
        b"5S\n",
        b"1_0S",
        b"1.5S",
        b"0x1S",
        "\u0661S".encode(),
        b"\xb2S",
    ],
)
def test_what_the_grammar_lacks_is_malformed(value: bytes) -> None:
    assert decode(value) is None


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.299, b"299000u"),
        (1e-9, b"1n"),
        (1.5e-9, b"2n"),
        (0.0999999991, b"100000u"),
        (10, b"10000000u"),
        (100, b"100000m"),
        (100_000, b"100000S"),
        (100_000_000, b"1666667M"),
        (6e9, b"1666667H"),
        (0, b"1n"),
        (-1, b"1n"),
        (1e30, b"99999999H"),
        (math.inf, b"99999999H"),
    ],
)
def test_encoding_takes_the_finest_unit_and_rounds_up(seconds: float, value: bytes) -> None:
    assert encode(seconds) == value
