"""gRPC-Web: base64 in pieces gives what the bytes themselves would give, however both are cut.

The first byte of an input chooses the cuts, the rest is the body: once as the text that a client sends,
once as bytes that are put into text.
"""

from __future__ import annotations

from random import Random

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.framing import MessageParser
from engine.wire.grpc.web import TextParser, answers_text, encode_text, is_text, response_type, trailer_frame

MAX_SIZE = 2000

SEEDS: list[bytes] = [
    b"\x00" + b"AAAAAAVoZWxsbw==",
    b"\x01" + b"AAAAAAA=AAAAAAA=",
    b"\x02" + b"AAAAAAA=",
    b"\x03" + b"AQAAAAA=",
    b"\x04" + b"AAAAAAE",
    b"\x05" + b"AAAAAAFh!!!!AAAA",
    b"\x09" + b"AAAAAAA=AAAA====AAAA",
    b"\x06" + b"\0\0\0\0\5hello\0\0\0\0\0",
    b"\x07" + b"application/grpc-web-text+proto; charset=utf-8",
    b"\x08" + b"\0\0\0\7\xd0" + b"x" * 2000 + b"\0\0\0\7\xd1",
]

Outcome = tuple[list[bytes], StatusCode | None, bool]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    random, body = Random(data[:1]), data[1:]
    whole = _parse(TextParser(MAX_SIZE), [body])
    assert whole == _parse(TextParser(MAX_SIZE), _cut(body, random)), "the cuts changed what was parsed"
    assert whole == _parse(TextParser(MAX_SIZE), [body[at : at + 1] for at in range(len(body))])
    assert whole[2] is (whole[1] is None)
    assert len(body) % 4 == 0 or not whole[2], "a group that is cut was taken for whole"

    plain = _parse(MessageParser(MAX_SIZE), [body])
    text = b"".join(encode_text(piece) for piece in _cut(body, random))
    assert plain == _parse(TextParser(MAX_SIZE), _cut(text, random)), "the text variant differs from the binary one"

    value = body.translate(None, b"\r\n")
    last = trailer_frame([(b"grpc-status", b"0"), (b"x", value)])
    assert last[:5] == bytes([0x80]) + (len(last) - 5).to_bytes(4, "big")
    assert last[5:].split(b"\r\n") == [b"grpc-status: 0", b"x: " + value, b""]

    text_request = is_text(body)
    answer = response_type(body, text=answers_text(body, body[::-1]))
    assert is_text(answer) is not None
    assert text_request is None or is_text(response_type(body, text=text_request)) is text_request


def _cut(body: bytes, random: Random) -> list[bytes]:
    pieces = []
    while body:
        size = random.choice((1, 2, 3, 4, 5, 7, 100, 1024))
        pieces.append(body[:size])
        body = body[size:]
    return pieces


def _parse(parser: MessageParser, pieces: list[bytes]) -> Outcome:
    messages: list[bytes] = []
    for piece in pieces:
        parser.receive_data(piece)
        messages += iter(parser.next_message, None)
    parser.receive_eof()
    messages += iter(parser.next_message, None)
    failure: RpcError | None = parser.failure
    assert all(len(message) <= MAX_SIZE for message in messages)
    return messages, None if failure is None else failure.code, parser.ended
