"""HPACK (RFC 7541) that remembers: field blocks in both directions, decoded and encoded once.

Owns: the decoding and encoding of field blocks and the limits on them.

Theory of operation. A block that did not change the dynamic table decodes to the same list the next
time, until the table changes; real clients send the same indexed block for call after call. So the
decoder maps `block bytes -> FieldBlock` and forgets the map whenever the table changes. A block that
itself changes the table (an insertion, a size update) is never remembered.

The encoder never inserts anything: all that is not in the static table goes out as a literal
without indexing, credentials as never-indexed literals. Its output therefore depends on nothing but
its input, may be remembered for ever and may be sent in any order; a compression oracle (CRIME)
finds nothing, and a peer's table size costs nothing. It costs some bytes a response, less than the
linear search of a table in Python costs time.

Both maps are bounded. The decoder walks the block by index: hpack's own copies the rest of the block
for each literal, which is quadratic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hpack import Decoder, HeaderTuple, HPACKError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from engine.config import Http2Config
from engine.errors import LimitExceeded, LimitKind, LocalProtocolError, RemoteProtocolError
from engine.wire.http2_fields import CONNECTION_SPECIFIC, Fields, RequestFields

MAX_DECODED_BLOCKS = 64  # of a connection: a client has a handful of calls in a loop
MAX_DECODED_BLOCK = 512  # bytes; what a client repeats is mostly indexed
MAX_DECODED_FIELDS = 64  # of a remembered block: some 8 KiB of objects
MAX_ENCODED_BLOCKS = 256  # of the process
MAX_ENCODED_FIELDS = 1024  # of the process
MAX_REMEMBERED_VALUE = 512  # bytes
MAX_SIZE_UPDATES = 2  # RFC 7541 4.2: "at most two dynamic table size updates"
HARD_LIST_FACTOR = 2  # times max_header_list: 431 up to it, the end of the connection beyond
FIELD_OVERHEAD = 32  # RFC 7541 4.1
_MAX_INTEGER_OCTETS = 5  # as hpack: a prefix and a 32-bit number

_STATIC_ENTRIES = HeaderTable.STATIC_TABLE
_STATIC_MAPPING = HeaderTable.STATIC_TABLE_MAPPING
_STATIC_LENGTH = HeaderTable.STATIC_TABLE_LENGTH


class CompressionError(ProtocolError):
    """A block that HPACK cannot decode: the connection is over (RFC 9113 4.3)."""

    error_code = ErrorCodes.COMPRESSION_ERROR


class FieldBlock:
    """A decoded field block, and what the core found out about it."""

    __slots__ = ("fields", "request", "response", "size", "trailers")

    def __init__(self, fields: Fields, size: int) -> None:
        self.fields = fields
        self.size = size  # RFC 9113 6.5.2: names, values and 32 bytes a field
        # the verdicts, once asked for; a malformed response is not worth remembering
        self.request: RequestFields | RemoteProtocolError | None = None
        self.response: tuple[int, Fields, int | None] | None = None
        self.trailers: Fields | None = None


class MemoDecoder(Decoder):
    """A drop-in for `hpack.Decoder` with a memory and harder limits.

    Args:
        config: `header_table_size` and `max_header_list`.
    """

    def __init__(self, config: Http2Config) -> None:
        super().__init__(max_header_list_size=config.max_header_list * HARD_LIST_FACTOR)
        self._soft_limit = config.max_header_list
        self._memo: dict[bytes, FieldBlock] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """The interface of `hpack.Decoder`; always raw bytes."""
        return [HeaderTuple(*field) for field in self.decode_block(data).fields]

    def decode_block(self, data: bytes) -> FieldBlock:
        """Decode one complete field block.

        Raises:
            CompressionError: it is no valid HPACK; the table can no longer be trusted.
            LimitExceeded: the list is more than twice `http2.max_header_list`; likewise.
        """
        block = self._memo.get(data)
        if block is not None:
            return block
        try:
            fields, size, changed = self._walk(data)
        except (HPACKError, IndexError) as error:
            raise CompressionError(f"the header block is no valid HPACK: {error}") from error
        block = FieldBlock(tuple(fields), size)
        if changed:
            self._memo.clear()
        elif len(data) <= MAX_DECODED_BLOCK and len(fields) <= MAX_DECODED_FIELDS:
            if len(self._memo) >= MAX_DECODED_BLOCKS:
                self._memo.clear()
            self._memo[data] = block
        return block

    def _walk(self, data: bytes) -> tuple[list[tuple[bytes, bytes]], int, bool]:
        """The fields, their size, and whether the dynamic table changed."""
        fields: list[tuple[bytes, bytes]] = []
        add = fields.append
        table = self.header_table
        limit = self.max_header_list_size
        size = updates = position = 0
        changed = False
        end = len(data)
        while position < end:
            first = data[position]
            if first & 0x80:  # RFC 7541 6.1: indexed
                if first != 0xFF:
                    index = first & 0x7F
                    position += 1
                else:
                    index, position = _integer(data, position, 0x7F)
                field = _STATIC_ENTRIES[index - 1] if 0 < index <= _STATIC_LENGTH else table.get_by_index(index)
            elif first & 0x60 == 0x20:  # 6.3: size update
                if fields:
                    raise CompressionError("a dynamic table size update after the first field")
                updates += 1
                if updates > MAX_SIZE_UPDATES:
                    raise CompressionError("more than two dynamic table size updates in a block")
                new_size, position = _integer(data, position, 0x1F)
                if new_size > self.max_allowed_table_size:
                    raise CompressionError("a dynamic table size update beyond SETTINGS_HEADER_TABLE_SIZE")
                self.header_table_size = new_size
                changed = True
                continue
            else:  # 6.2: literal, with (0x40) or without indexing
                indexing = first & 0x40
                index, position = _integer(data, position, 0x3F if indexing else 0x0F)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, position = _string(data, position)
                value, position = _string(data, position)
                field = (name, value)
                if indexing:
                    table.add(name, value)
                    changed = True
            add(field)
            size += FIELD_OVERHEAD + len(field[0]) + len(field[1])
            if size > limit:
                raise LimitExceeded(
                    "http2.max_header_list", self._soft_limit, size, kind=LimitKind.HEAD_SIZE, what="a header list"
                )
        if table.maxsize > self.max_allowed_table_size:
            raise CompressionError("the dynamic table was not shrunk to SETTINGS_HEADER_TABLE_SIZE")
        return fields, size, changed


def _integer(data: bytes, position: int, mask: int) -> tuple[int, int]:
    """RFC 7541 5.1: the number, and where the next byte is."""
    number = data[position] & mask
    position += 1
    if number != mask:
        return number, position
    for shift in range(0, 7 * _MAX_INTEGER_OCTETS, 7):
        byte = data[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise CompressionError("an integer of too many octets")


def _string(data: bytes, position: int) -> tuple[bytes, int]:
    """RFC 7541 5.2: the string, and where the next byte is."""
    huffman = data[position] & 0x80
    length, position = _integer(data, position, 0x7F)
    end = position + length
    if end > len(data):
        raise CompressionError("a string longer than the block")
    text = data[position:end]
    return (decode_huffman(text) if huffman else text), end


# -- encoding -----------------------------------------------------------------

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_BAD_VALUE = re.compile(rb"[\x00\r\n]").search
# RFC 7541 7.1.3: literals that no intermediary may put into a table; h2's and nghttp2's choice.
_NEVER_INDEXED = frozenset([b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"])
_HUFFMAN = [
    format(code & ((1 << length) - 1), f"0{length}b")
    for code, length in zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)
]

_encoded_fields: dict[tuple[bytes, bytes], bytes] = {}
_encoded_blocks: dict[Fields, bytes] = {}


class MemoEncoder:
    """The part of `hpack.Encoder` that h2 uses, without a dynamic table."""

    __slots__ = ("_announce", "_table_size")

    def __init__(self) -> None:
        self._table_size = HeaderTable.DEFAULT_SIZE  # what the peer's decoder has
        self._announce = False

    @property
    def header_table_size(self) -> int:
        """The largest dynamic table that the peer allows; only a smaller one means anything here."""
        return self._table_size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # RFC 7541 4.2: a reduction must be signalled at the start of the next block, its smallest value
        # in any case; a later increase need not be used.
        if value < self._table_size:
            self._table_size = value
            self._announce = True

    def take_prefix(self) -> bytes:
        """What must come before the next block that is sent: a size update, mostly nothing."""
        if not self._announce:
            return b""
        self._announce = False
        return _encode_integer(self._table_size, 0x1F, 0x20)

    def encode(self, headers: Iterable[tuple[bytes, bytes]], huffman: bool = True) -> bytes:
        """The interface of `hpack.Encoder`."""
        return self.take_prefix() + encode_fields(headers)


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A field block, without a size update. Names are lowered, HTTP/1.1's own fields left out.

    Raises:
        LocalProtocolError: a name or value that HTTP cannot carry.
    """
    key = fields if type(fields) is tuple else tuple(fields)
    block = _encoded_blocks.get(key)
    if block is None:
        block = b"".join([_encode_field(field) for field in key])
        if len(block) <= MAX_REMEMBERED_VALUE:
            if len(_encoded_blocks) >= MAX_ENCODED_BLOCKS:
                _encoded_blocks.clear()
            _encoded_blocks[key] = block
    return block


def _encode_field(field: tuple[bytes, bytes]) -> bytes:
    encoded = _encoded_fields.get(field)
    if encoded is not None:
        return encoded
    name, value = field
    name = name.lower()
    if not _NAME(name):
        raise LocalProtocolError(f"{name!r} is no field name; use letters, digits and -_.")
    if _BAD_VALUE(value):
        raise LocalProtocolError(f"the value of {name.decode()} holds NUL, CR or LF; leave them out")
    if name in CONNECTION_SPECIFIC:
        return b""
    encoded = _encode_literal(name, value)
    if len(value) <= MAX_REMEMBERED_VALUE and name not in _NEVER_INDEXED:
        if len(_encoded_fields) >= MAX_ENCODED_FIELDS:
            _encoded_fields.clear()
        _encoded_fields[field] = encoded
    return encoded


def _encode_literal(name: bytes, value: bytes) -> bytes:
    known = _STATIC_MAPPING.get(name)
    if known is None:
        prefix = (b"\x10" if name in _NEVER_INDEXED else b"\x00") + _encode_string(name)
        return prefix + _encode_string(value)
    index = known[1].get(value)
    if index is not None:
        return _encode_integer(index, 0x7F, 0x80)
    pattern = 0x10 if name in _NEVER_INDEXED else 0x00
    return _encode_integer(known[0], 0x0F, pattern) + _encode_string(value)


def _encode_string(text: bytes) -> bytes:
    if len(text) <= MAX_REMEMBERED_VALUE:
        bits = "".join([_HUFFMAN[byte] for byte in text])
        length = (len(bits) + 7) // 8
        if length < len(text):
            # RFC 7541 5.2: padded with the most significant bits of EOS, which are ones.
            number = int(bits.ljust(length * 8, "1"), 2)
            return _encode_integer(length, 0x7F, 0x80) + number.to_bytes(length, "big")
    return _encode_integer(len(text), 0x7F, 0x00) + text


def _encode_integer(number: int, mask: int, pattern: int) -> bytes:
    if number < mask:
        return bytes([pattern | number])
    octets = bytearray([pattern | mask])
    number -= mask
    while number >= 0x80:
        octets.append(0x80 | (number & 0x7F))
        number >>= 7
    octets.append(number)
    return bytes(octets)
