"""The `grpc-timeout` field: text to seconds and back.

Never reads a clock. Spec: grpc/grpc doc/PROTOCOL-HTTP2.md, "Timeout".
"""

from __future__ import annotations

import math
import re

# "TimeoutValue → {positive integer as ASCII string of at most 8 digits}". A bytes pattern: `[0-9]`
# of a str pattern is right too, but `\d`, `str.isdigit` and `int` take Arabic digits, signs,
# spaces and underscores.
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")

_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PER_SECOND = ((1_000_000_000, b"n"), (1_000_000, b"u"), (1_000, b"m"), (1, b"S"))
_PER_UNIT = ((60, b"M"), (3600, b"H"))
_MAX_VALUE = 99_999_999


def decode(value: bytes) -> float | None:
    """Seconds, or None for a malformed value. `m` is milliseconds, `M` minutes."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        return None
    return int(match[1]) * _SECONDS[match[2]]


def encode(seconds: float) -> bytes:
    """The field for a time-out of so many seconds, in the finest unit of at most 8 digits.

    Rounds up, so that a server never gives up before its client. No time left is the least value
    there is; a time-out beyond 99999999 hours becomes that. For `math.inf` send no field.
    """
    if seconds <= 0:
        return b"1n"
    for per_second, unit in _PER_SECOND:
        if seconds * per_second <= _MAX_VALUE:
            return b"%d%s" % (math.ceil(seconds * per_second), unit)
    for unit_seconds, unit in _PER_UNIT:
        if seconds / unit_seconds <= _MAX_VALUE:
            return b"%d%s" % (math.ceil(seconds / unit_seconds), unit)
    return b"%dH" % _MAX_VALUE
