"""gRPC message framing: however a body is cut, the same messages and the same end; memory is bounded.

The first byte of an input chooses the cuts, the rest is the body.
"""

from __future__ import annotations

from random import Random

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.framing import MessageParser, frame, parse_single

MAX_SIZE = 3000

SEEDS: list[bytes] = [
    b"\x00" + b"\x00\x00\x00\x00\x05hello",
    b"\x01" + b"\x00\x00\x00\x00\x00" * 3,
    b"\x02" + b"\x00\x00\x00\x00\x02hi\x00\x00\x00\x00\x01!",
    b"\x03" + b"\x01\x00\x00\x00\x02hi",
    b"\x04" + b"\x02\x00\x00\x00\x00",
    b"\x05" + b"\x00\xff\xff\xff\xff",
    b"\x06" + b"\x00\x00\x00\x0b\xb8" + b"x" * 3000 + b"\x00\x00\x00\x00\x01y",
    b"\x07" + b"\x00\x00\x00\x0b\xb9" + b"x" * 3001,
    b"\x08" + b"\x00\x00\x00\x00\x05hell",
]

Outcome = tuple[list[bytes], tuple[StatusCode, str] | None, bool]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    random, body = Random(data[:1]), data[1:]
    whole = _parse([body])
    assert whole == _parse(_cut(body, random)), "the cuts changed what was parsed"
    assert whole == _parse([body[i : i + 1] for i in range(len(body))]), "single bytes changed what was parsed"
    assert whole == _parse([body], pull_late=True), "pulling late changed what was parsed"
    messages, failure, ended = whole
    assert ended is (failure is None)
    assert all(len(message) <= MAX_SIZE for message in messages)
    if failure is None:
        assert b"".join(piece for message in messages for piece in frame(message)) == body
    single = parse_single(body, MAX_SIZE)
    assert (single is not None) is (failure is None and len(messages) == 1)
    assert single is None or single == messages[0]


def _cut(body: bytes, random: Random) -> list[bytes]:
    pieces = []
    while body:
        size = random.choice((0, 1, 3, 4, 5, 6, 100, 1023, 1024, 1500))
        pieces.append(body[:size])
        body = body[size:]
    return pieces


def _parse(pieces: list[bytes], *, pull_late: bool = False) -> Outcome:
    parser = MessageParser(MAX_SIZE)
    messages: list[bytes] = []
    for piece in pieces:
        parser.receive_data(piece)
        if not pull_late:
            _pull(parser, messages)
            held = sum(map(len, parser._pieces)) + len(parser._data) - parser._at
            assert held <= MAX_SIZE + 5, f"{held} bytes are kept for one message"
    parser.receive_eof()
    _pull(parser, messages)
    failure: RpcError | None = parser.failure
    return messages, None if failure is None else (failure.code, failure.message), parser.ended


def _pull(parser: MessageParser, messages: list[bytes]) -> None:
    while True:
        promised = parser.has_message
        message = parser.next_message()
        assert promised is (message is not None), "has_message and next_message disagree"
        if message is None:
            return
        messages.append(message)
