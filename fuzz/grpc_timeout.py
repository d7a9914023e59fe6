"""grpc-timeout: only the grammar is accepted, and an encoded time-out is never shorter than asked for."""

from __future__ import annotations

import math
import re
import struct

from engine.wire.grpc import timeout

SEEDS: list[bytes] = [
    b"1S",
    b"99999999H",
    b"123456789n",
    b"0m",
    b"+5S",
    b" 5S",
    b"1_0S",
    b"5S\n",
    "\u0661S".encode(),
    struct.pack("<d", 0.3),
    struct.pack("<d", 1e-9),
    struct.pack("<d", 99999.9999),
]

_GRAMMAR = re.compile(rb"\A[0-9]{1,8}[HMSmun]\Z")


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    seconds = timeout.decode(data)
    assert (seconds is not None) is (_GRAMMAR.match(data) is not None)
    if seconds is not None:
        assert 0 <= seconds < math.inf
        _check_encode(seconds)
    if len(data) >= 8:
        (number,) = struct.unpack("<d", data[:8])
        if not math.isnan(number):
            _check_encode(number)


def _check_encode(seconds: float) -> None:
    encoded = timeout.encode(seconds)
    assert _GRAMMAR.match(encoded), encoded
    back = timeout.decode(encoded)
    assert back is not None
    if 0 < seconds <= 99_999_999 * 3600.0:
        assert back >= seconds * (1 - 1e-15), f"{encoded!r} is shorter than {seconds}"
        # The coarsest step: just above 99999999 minutes the unit is an hour, 6e-7 of it; 1 ns for the least values.
        assert back <= seconds * (1 + 1e-4) + 1e-9, f"{encoded!r} is much longer than {seconds}"
