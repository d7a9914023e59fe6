"""The first bytes of a connection tell its protocol."""

import pytest

from engine.wire.sniff import HTTP2_PREFACE, PROBE_SIZE, Protocol, sniff


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (b"\x16", Protocol.TLS),
        (b"\x16\x03\x01\x02\x00", Protocol.TLS),
        (HTTP2_PREFACE, Protocol.HTTP2),
        (HTTP2_PREFACE + b"\x00\x00\x00\x04", Protocol.HTTP2),
        (b"GET / HTTP/1.1\r\n", Protocol.HTTP1),
        (b"POST ", Protocol.HTTP1),
        (b"PRI / HTTP/1.1\r\n", Protocol.HTTP1),
        (b"PRI * HTTP/1.1\r\n", Protocol.HTTP1),
        (b"PROPFIND /", Protocol.HTTP1),
        (b"\r\nGET / HTTP/1.1", Protocol.HTTP1),
        (b"get\r\n", Protocol.HTTP1),
        (b" GET / HTTP/1.1", Protocol.HTTP1),
        (b"GET / HTTP/9.9\r\n", Protocol.HTTP1),
        (b"A" * 16, Protocol.HTTP1),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Protocol.UNKNOWN),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x00", Protocol.UNKNOWN),
        (b"PRI * HTTP/2.0\n", Protocol.UNKNOWN),
        (b"\x00", Protocol.UNKNOWN),
        (b"\x80\x9e", Protocol.UNKNOWN),
        (b"G\x00T / HTTP/1.1", Protocol.UNKNOWN),
        (b"AMQP\x00\x00\x09\x01", Protocol.UNKNOWN),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Protocol.HTTP1),
    ],
)
def test_a_beginning_tells_the_protocol(data, protocol):
    assert sniff(data) is protocol


@pytest.mark.parametrize("data", [b"", b"G", b"GET", b"P", HTTP2_PREFACE[:-1], b"\r", b"\r\n", b"\r\nGE"])
def test_too_short_a_beginning_asks_for_more(data):
    assert sniff(data) is None


@pytest.mark.parametrize("data", [HTTP2_PREFACE, b"GET / HTTP/1.1\r\n", b"\r\nGET / HTTP/1.1", b"\x16\x03", b"A\xff"])
def test_a_decision_holds_for_every_longer_beginning(data):
    decided = [sniff(data[:size]) for size in range(len(data) + 1)]
    first = next(found for found in decided if found is not None)
    assert all(found in (None, first) for found in decided)
    assert decided[-1] is first


@pytest.mark.parametrize("byte", range(256))
def test_no_beginning_stays_undecided_forever(byte):
    assert sniff(bytes([byte]) * PROBE_SIZE) is not None
