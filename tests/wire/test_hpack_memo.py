"""The remembering HPACK coder, against plain hpack."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Http2Config
from engine.errors import LimitExceeded, LocalProtocolError
from engine.wire.hpack_memo import CompressionError, MemoDecoder, MemoEncoder, encode_fields

NAMES = st.sampled_from([b":status", b"x", b"content-type", b"cookie", b"authorization", b"grpc-status", b"date"])
VALUES = st.binary(max_size=60).filter(lambda value: not set(value) & {0, 10, 13})
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def test_a_block_that_leaves_the_table_alone_is_decoded_once():
    decoder, encoder = MemoDecoder(Http2Config()), hpack.Encoder()
    fields = [(":method", "GET"), ("x", "y")]
    decoder.decode_block(encoder.encode(fields))
    again = encoder.encode(fields)
    first = decoder.decode_block(again)
    assert first.fields == ((b":method", b"GET"), (b"x", b"y"))
    assert decoder.decode_block(again) is first


def test_a_remembered_block_is_forgotten_when_the_table_changes():
    decoder, encoder = MemoDecoder(Http2Config()), hpack.Encoder()
    decoder.decode_block(encoder.encode([("x", "old")]))
    indexed = encoder.encode([("x", "old")])
    assert decoder.decode_block(indexed).fields == ((b"x", b"old"),)
    decoder.decode_block(encoder.encode([("x", "new")]))
    assert decoder.decode_block(indexed).fields == ((b"x", b"new"),)


def test_the_size_of_a_list_counts_32_bytes_a_field():
    assert MemoDecoder(Http2Config()).decode_block(b"\x82\x84").size == 64 + len(b":methodGET:path/")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xff\x80\x80\x80\x80\x80\x01",  # an integer of six octets
        b"\xff",  # an integer that never ends
        b"\xbe",  # no such entry
        b"\x82\x20",  # size update after a field
        b"\x20\x20\x20",  # three size updates
        b"\x3f\xe2\x1f",  # 4097: beyond the setting
        b"\x00\x05ab",  # truncated
        b"\x00\x81\xff\x00",  # Huffman: EOS padding too long
        b"\x40",  # nothing behind
    ],
)
def test_what_is_no_hpack_is_a_compression_error(block):
    with pytest.raises(CompressionError) as caught:
        MemoDecoder(Http2Config()).decode_block(block)
    assert caught.value.error_code == 9


def test_two_size_updates_at_the_start_are_allowed():
    assert MemoDecoder(Http2Config()).decode_block(b"\x20\x3f\xe1\x1f\x82").fields == ((b":method", b"GET"),)


def test_a_bomb_is_stopped_while_it_is_decoded():
    decoder, encoder = MemoDecoder(Http2Config()), hpack.Encoder()
    decoder.decode_block(encoder.encode([("x", "y" * 4000)]))
    with pytest.raises(LimitExceeded) as caught:
        decoder.decode_block(encoder.encode([("x", "y" * 4000)]) * 1000)
    assert caught.value.name == "http2.max_header_list"
    assert caught.value.observed < 2 * 32_768 + 5000


def test_a_table_that_the_peer_failed_to_shrink_is_an_error():
    decoder = MemoDecoder(Http2Config())
    decoder.max_allowed_table_size = 100
    with pytest.raises(CompressionError):
        decoder.decode_block(b"\x82")
    assert decoder.decode_block(b"\x3f\x45\x82").fields


@given(st.lists(st.tuples(LISTS, st.booleans(), st.sampled_from([None, 0, 64, 200, 4096])), max_size=12))
def test_decoding_agrees_with_hpack(blocks):
    ours, theirs, encoder = MemoDecoder(Http2Config()), hpack.Decoder(), hpack.Encoder()
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
            encoder.table_size_changes = encoder.table_size_changes[-2:]
        wire = encoder.encode(fields, huffman=huffman)
        expected = [tuple(field) for field in theirs.decode(wire, raw=True)]
        assert list(ours.decode_block(wire).fields) == expected
        again = encoder.encode(fields)
        assert list(ours.decode(again)) == list(theirs.decode(again, raw=True))


@given(st.lists(LISTS, max_size=10))
def test_hpack_decodes_what_we_encode_and_its_table_stays_empty(lists):
    decoder = hpack.Decoder()
    for fields in lists:
        for _ in range(2):
            assert [tuple(field) for field in decoder.decode(encode_fields(fields), raw=True)] == fields
    assert not decoder.header_table.dynamic_entries


def test_credentials_are_never_indexed_and_the_rest_is_without_indexing():
    first, second = hpack.Decoder().decode(encode_fields([(b"authorization", b"secret"), (b"x", b"y")]), raw=True)
    assert not first.indexable
    assert second.indexable
    assert encode_fields([(b"x", b"y")])[0] == 0
    assert encode_fields([(b"cookie", b"y")])[0] & 0xF0 == 0x10


def test_names_are_lowered_and_http1_fields_left_out():
    fields = [(b"X-Y", b"z"), (b"Connection", b"close"), (b"Transfer-Encoding", b"chunked")]
    assert hpack.Decoder().decode(encode_fields(fields), raw=True) == [(b"x-y", b"z")]


@pytest.mark.parametrize("field", [(b"a b", b""), (b"", b""), (b"a", b"x\r\ny"), (b"a", b"\0"), (b"a\n", b"")])
def test_a_field_that_http_cannot_carry_is_our_own_error(field):
    with pytest.raises(LocalProtocolError):
        encode_fields([field])


def test_a_smaller_table_is_signalled_once_before_the_next_block():
    encoder, decoder = MemoEncoder(), hpack.Decoder()
    encoder.header_table_size = 100
    encoder.header_table_size = 0
    encoder.header_table_size = 4096
    decoder.max_allowed_table_size = 100
    assert encoder.encode([(b"x", b"y")]) == b"\x20" + encode_fields([(b"x", b"y")])
    decoder.decode(b"\x20" + encode_fields([(b"x", b"y")]))
    assert encoder.encode([(b"x", b"y")]) == encode_fields([(b"x", b"y")])


def test_a_long_value_is_encoded_in_linear_time():
    value = bytes(range(32, 127)) * 10_000
    assert hpack.Decoder(2_000_000).decode(encode_fields([(b"grpc-message", value)]), raw=True)[0][1] == value
