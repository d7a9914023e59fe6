from __future__ import annotations

import pytest

from engine.errors import LocalProtocolError, RpcError, StatusCode
from engine.wire.grpc.metadata import Metadata, decode, decode_binary, encode, encode_binary, size


def decoded(*fields: tuple[bytes, bytes]) -> list[tuple[str, str | bytes]]:
    result = decode(fields)
    assert isinstance(result, Metadata)
    return list(result)


def test_order_and_duplicates_are_kept() -> None:
    fields = ((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"1"), (b"x-a", b"3"))
    assert decoded(*fields) == [("x-a", "1"), ("x-b", "2"), ("x-a", "1"), ("x-a", "3")]


def test_the_fields_of_the_call_itself_are_no_metadata() -> None:
    ours = [b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b":path"]
    assert decoded(*((name, b"x") for name in ours)) == []
    assert decoded((b"user-agent", b"me"), (b"grpc-previous-rpc-attempts", b"1")) == [
        ("user-agent", "me"),
        ("grpc-previous-rpc-attempts", "1"),
    ]


def test_a_value_outside_of_ascii_is_no_error() -> None:
    assert decoded((b"x-a", b" caf\xe9\xff\t")) == [("x-a", "caf\u00e9\u00ff")]


@pytest.mark.parametrize(
    ("value", "values"),
    [
        (b"AQI=", [b"\x01\x02"]),
        (b"AQI", [b"\x01\x02"]),
        (b"q6ur", [b"\xab\xab\xab"]),
        (b"", [b""]),
        (b"AQI=, Aw==, BAUG", [b"\x01\x02", b"\x03", b"\x04\x05\x06"]),
        (b"AQI,Aw,BAUG", [b"\x01\x02", b"\x03", b"\x04\x05\x06"]),
        (b"AQI,,Aw", [b"\x01\x02", b"", b"\x03"]),
        (b"+/+/", [b"\xfb\xff\xbf"]),
    ],
)
def test_binary_values_are_split_at_commas_and_decoded_padded_or_not(value: bytes, values: list[bytes]) -> None:
    assert decode_binary(value) == values
    assert decoded((b"x-bin", value)) == [("x-bin", item) for item in values]


@pytest.mark.parametrize(
    "value", [b"A", b"AQI==", b"A=QI", b"AQ I", b"-_-_", b"AQI,%", b"=", b"AQIw=", b"AQIw====", b"\xff" * 4]
)
def test_broken_base64_is_internal(value: bytes) -> None:
    result = decode([(b"x-bin", value)])
    assert isinstance(result, RpcError)
    assert result.code is StatusCode.INTERNAL
    assert "x-bin" in result.message


def test_binary_values_leave_unpadded_each_in_a_field_of_its_own() -> None:
    assert encode_binary(b"\x01\x02") == b"AQI"
    assert encode([("x-bin", b"\x01\x02"), ("x-bin", b"\x03")]) == [(b"x-bin", b"AQI"), (b"x-bin", b"Aw")]


def test_text_values_leave_without_outer_spaces_and_keys_in_lower_case() -> None:
    assert encode({"X-Id": " a b "}) == [(b"x-id", b"a b")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:b", "x"),
        ("é", "x"),
        ("x", "a\r\nb"),
        ("x", "é"),
        ("x", "\x7f"),
        ("x-bin", "text"),
        ("grpc-status", "0"),
        ("grpc-foo", "0"),
        ("content-type", "x"),
        ("Connection", "close"),
        ("te", "x"),
    ],
)
def test_what_grpc_cannot_carry_is_refused_when_it_is_given(key: str, value: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode([(key, value)])


def test_the_reserved_keys_that_handlers_use_may_be_sent() -> None:
    assert encode([("grpc-status-details-bin", b"\x01")]) == [(b"grpc-status-details-bin", b"AQ")]


def test_size_counts_name_value_and_32_for_each_field() -> None:
    assert size([(b"ab", b"cde"), (b"f", b"")]) == 2 + 3 + 32 + 1 + 32


def test_metadata_is_read_by_key() -> None:
    metadata = Metadata([("a", "1"), ("b-bin", b"2"), ("a", "3")])
    assert metadata.get("a") == "1"
    assert metadata.get("c") is None
    assert metadata.get_all("a") == ["1", "3"]
    assert metadata.text("a") == "1"
    assert metadata.binary("b-bin") == b"2"
    assert metadata.text("b-bin") is None
    assert "a" in metadata
    assert ("a", "3") in metadata
    assert "c" not in metadata
    assert metadata[1] == ("b-bin", b"2")
    assert len(metadata) == 3
    assert metadata == Metadata([("a", "1"), ("b-bin", b"2"), ("a", "3")])
