"""The protocol of a connection does not depend on how its first bytes were cut, and is soon decided."""

from __future__ import annotations

from engine.wire.sniff import PROBE_SIZE, Protocol, sniff

SEEDS: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"PRI * HTTP/2.0\r\n\r\nXX",
    b"PRI / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00\x01\x02\x03",
    b"AVERYLONGWORDWITHOUTANYSPACE",
]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    first: Protocol | None = None
    for size in range(min(len(data), PROBE_SIZE + 8) + 1):
        found = sniff(data[:size])
        if first is not None:
            assert found is first, f"{first} became {found} with byte {size}"
        first = first or found
        assert found is not None or size < PROBE_SIZE, f"undecided after {size} bytes"
    assert sniff(data) is first, "the whole is another protocol than its beginning"
