"""The head of a response: what is read, skipped and refused."""

from __future__ import annotations

import pytest

from engine.config import Http1Config
from engine.errors import LimitExceeded, RemoteProtocolError
from engine.wire.http1_response import ResponseHead, ResponseHeadReader


def read(data: bytes, step: int = 0, **limits: int) -> tuple[ResponseHead | None, bytes]:
    reader = ResponseHeadReader(Http1Config(**limits))
    for start in range(0, len(data), step or len(data)):
        head = reader.feed(data[start : start + (step or len(data))])
        if head is not None:
            return head, bytes(reader.rest) + data[start + (step or len(data)) :]
    return None, bytes(reader.rest)


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_head_is_read_up_to_what_follows_it(step: int) -> None:
    data = b"HTTP/1.1 200 Very OK\r\nName:  value \r\nEMPTY:\r\n\r\nbody"
    assert read(data, step) == (ResponseHead(200, [(b"name", b"value"), (b"empty", b"")]), b"body")


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 \xfc"])
def test_the_reason_may_be_anything_or_missing(line: bytes) -> None:
    assert read(line + b"\r\n\r\n") == (ResponseHead(200, []), b"")


def test_informational_heads_are_skipped_up_to_a_number() -> None:
    hint = b"HTTP/1.1 103 Early\r\na: b\r\n\r\n"
    assert read(hint * 16 + b"HTTP/1.1 204 x\r\n\r\n") == (ResponseHead(204, []), b"")
    with pytest.raises(RemoteProtocolError):
        read(hint * 17)


@pytest.mark.parametrize(
    "data",
    [
        b"H2",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.0 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: \x01\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
        b"HTTP/1.1 200 OK\na: b\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_what_is_no_head_is_refused_however_it_is_cut(data: bytes, step: int) -> None:
    with pytest.raises(RemoteProtocolError):
        read(data, step)


def test_a_head_has_limits() -> None:
    with pytest.raises(LimitExceeded, match=r"http1\.max_head_size"):
        read(b"HTTP/1.1 200 OK\r\na: " + b"b" * 100, 1, max_head_size=100)
    with pytest.raises(LimitExceeded, match=r"http1\.max_fields"):
        read(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 4 + b"\r\n", max_fields=3)
