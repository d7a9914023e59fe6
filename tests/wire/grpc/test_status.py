from __future__ import annotations

import pytest

from engine.errors import StatusCode
from engine.wire.grpc.status import OK_TRAILERS, decode_message, decode_status, encode_message, trailers

SIZE = 4096


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain text, with !\"#$&'() punctuation~", b"plain text, with !\"#$&'() punctuation~"),
        ("100%", b"100%25"),
        ("☺", b"%E2%98%BA"),
        ("😈", b"%F0%9F%98%88"),
        ("a\r\nb", b"a%0D%0Ab"),
        ("\x7f\x00", b"%7F%00"),
        (" a b ", b"%20a b%20"),
        (" ", b"%20"),
        ("  ", b"%20%20"),
        ("\ud800", b"?"),
        ("", b""),
        (
            "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
            b"%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09%0A",
        ),
    ],
)
def test_all_but_space_and_visible_ascii_is_percent_encoded(text: str, value: bytes) -> None:
    assert encode_message(text, SIZE) == value
    if "\ud800" not in text:
        assert decode_message(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"%zz", "%zz"),
        (b"%", "%"),
        (b"%2", "%2"),
        (b"a%2", "a%2"),
        (b"%e2%98%ba", "☺"),
        (b"%FF%20", "\ufffd "),
        (b"\xe9", "\ufffd"),
        (b"%25zz", "%zz"),
    ],
)
def test_broken_escapes_stay_and_bad_utf_8_is_replaced(value: bytes, text: str) -> None:
    assert decode_message(value) == text


@pytest.mark.parametrize("text", ["x" * 10_000, "é" * 10_000, "☺" * 10_000, "😈" * 10_000, "a%" * 5000, " " * 9000])
@pytest.mark.parametrize("limit", [100, 101, 102, 103, 104, 105, 106, 107, 4096])
def test_a_long_message_is_cut_between_two_characters(text: str, limit: int) -> None:
    value = encode_message(text, limit)
    assert limit - 20 <= len(value) <= limit
    assert text.startswith(decode_message(value))


def test_a_message_of_exactly_the_limit_is_not_cut() -> None:
    assert encode_message("x" * 100, 100) == b"x" * 100
    assert encode_message("é" * 10, 60) == b"%C3%A9" * 10


@pytest.mark.parametrize("code", list(StatusCode))
def test_codes_are_decimal_without_leading_zeros(code: StatusCode) -> None:
    assert trailers(code, max_message_size=SIZE)[0] == (b"grpc-status", str(int(code)).encode())
    assert decode_status(str(int(code)).encode()) is code


@pytest.mark.parametrize("value", [b"", b"x", b"99", b"-1", b"00", b"\xd9\xa1", b"1 "])
def test_what_is_no_code_is_unknown(value: bytes) -> None:
    assert decode_status(value) is StatusCode.UNKNOWN


def test_trailers_hold_status_message_details_and_metadata_in_order() -> None:
    fields = trailers(
        StatusCode.NOT_FOUND, "no ☺", details=b"\x08\x05", metadata=((b"x", b"1"), (b"x", b"2")), max_message_size=SIZE
    )
    assert list(fields) == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"no %E2%98%BA"),
        (b"grpc-status-details-bin", b"CAU"),
        (b"x", b"1"),
        (b"x", b"2"),
    ]


def test_the_trailers_of_success_are_one_object() -> None:
    assert trailers(StatusCode.OK, max_message_size=SIZE) is OK_TRAILERS
