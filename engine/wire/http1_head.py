"""The strict reading of an HTTP/1 head, before h11 sees it (RFC 9112 sections 2 to 6).

Owns: which bytes may be a request line, a field line, a trailer section; the limits on them; and
what Host, Content-Length, Transfer-Encoding, Expect and Upgrade mean together. Never buffers:
the core keeps the bytes and hands over all of a section each time.

Theory of operation. h11 is lenient where RFC 9112 lets a recipient be: bare LF, folded lines,
Content-Length beside Transfer-Encoding, control characters, any version. Each of these is a way to
make two parsers on one path see different requests (request smuggling), so all are refused here.

A head that arrives whole and is well formed, which is nearly every head, is matched by one regular
expression (`match_head`). Everything else goes through `SectionReader`, line by line, each byte
looked at once, and that reader alone decides which error it is. An error is reported at the first
byte that proves it, and a limit at the first byte beyond it, so the verdict does not depend on how
the bytes were cut. All quantifiers are possessive: no input makes them backtrack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from engine.errors import LimitExceeded, LimitKind, RemoteProtocolError

Buffer = bytes | bytearray
FieldList = list[tuple[bytes, bytes]]

MAX_METHOD = 32  # the longest registered method has 17; RFC 9112 3: 501 for one longer than any implemented
_LINE_ROOM = MAX_METHOD + len(b"  HTTP/1.1\r\n")  # of a request line beside its target

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]++) HTTP/([0-9]\.[0-9])\r\n" % _TOKEN)
_FIELD_LINE = re.compile(rb"(%s):(%s)\r\n" % (_TOKEN, _VALUE))
_HEAD = re.compile(rb"(?:\r\n)?(%s) ([\x21-\x7e]++) HTTP/(1\.[01])\r\n(?:%s:%s\r\n)*+\r\n" % (_TOKEN, _TOKEN, _VALUE))
# A control character, a CR that no LF follows, an LF that no CR precedes.
FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")

_AUTHORITY = re.compile(  # RFC 3986 3.2.2, without user information
    rb"(?:\[[0-9A-Fa-f:.]++\]|\[v[0-9A-Fa-f]+\.[^\]\x00-\x20]+\]"
    rb"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*+)(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*+)(.*)", re.DOTALL)

_FRAMING = frozenset(b"host content-length transfer-encoding expect upgrade connection".split())
_NOT_IN_TRAILERS = _FRAMING | frozenset(  # RFC 9110 6.5.1: framing, routing, request modifiers, authentication
    b"trailer te authorization content-encoding content-type content-range cookie range".split()
)


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What a head may cost; the settings of the same names in `http1`."""

    max_head_size: int
    max_target_size: int
    max_fields: int


class RequestReceived(msgspec.Struct, frozen=True):  # a frozen dataclass costs ten times as much to make
    """A request head, complete and checked. Names of fields are in lower case."""

    method: bytes
    path: bytes  # as sent, without the query; "*" for OPTIONS *
    query: bytes  # without the question mark
    authority: bytes  # of an absolute-form target, else Host
    http_version: str  # "1.0" or "1.1"
    fields: FieldList
    content_length: int | None  # 0 where there is no body, None where it is chunked
    expects_continue: bool
    wants_websocket: bool


def match_head(data: Buffer, base: int, limits: HeadLimits) -> tuple[RequestReceived, int] | None:
    """A head that is whole, well formed and within its limits, and where it ends; None for all others.

    Raises:
        RemoteProtocolError: the lines are good, but together they are no request.
    """
    match = _HEAD.match(data, base)
    if match is None:
        return None
    end = match.end()
    method, target, version = match.groups()
    if end - base > limits.max_head_size or len(target) > limits.max_target_size or len(method) > MAX_METHOD:
        return None
    lines = _FIELD_LINE.findall(data, match.end(3), end)
    if len(lines) > limits.max_fields:
        return None
    fields = [(name.lower(), value.strip(b" \t")) for name, value in lines]
    return assemble(method, target, version, fields), end


class SectionReader:
    """Reads a head, or a trailer section, line by line as it arrives."""

    __slots__ = ("_limits", "_scanned", "_skipped", "_trailers", "fields", "request_line", "size")

    def __init__(self, limits: HeadLimits, *, trailers: bool = False) -> None:
        self._limits = limits
        self._trailers = trailers
        self._scanned = 0
        self._skipped = False  # the one empty line before a request line
        self.request_line: tuple[bytes, bytes, bytes] | None = None
        self.fields: FieldList = []
        self.size = 0  # of the complete lines

    def feed(self, data: Buffer, base: int = 0) -> bool:
        """Go on reading a section that starts at `data[base]`; True when it is complete and `size` long.

        Raises:
            RemoteProtocolError, LimitExceeded: the section is refused.
        """
        while True:
            newline = data.find(b"\n", base + self._scanned)
            end = (newline + 1 if newline >= 0 else len(data)) - base
            cap = self._cap()
            # From one byte back: the last one seen may have been a CR.
            start = max(self._scanned - 1, self.size)
            if FORBIDDEN.search(data, base + start, base + min(end, cap)):
                raise RemoteProtocolError("a control character, a bare CR or a bare LF; end lines with CR LF")
            if end > cap:
                raise self._too_large(data, base)
            self._scanned = end
            if newline < 0:
                return False
            line = bytes(data[base + self.size : base + end])
            self.size = end
            if line == b"\r\n" and self._ends():
                return True
            if line != b"\r\n":
                self._accept(line)

    def _cap(self) -> int:
        """Where the current line must have ended."""
        if self._trailers or self.request_line is not None:
            return self._limits.max_head_size
        return min(self.size + self._limits.max_target_size + _LINE_ROOM, self._limits.max_head_size)

    def _ends(self) -> bool:
        if self._trailers or self.request_line is not None:
            return True
        if self._skipped:
            raise RemoteProtocolError("more than one empty line before the request line; send a request line")
        self._skipped = True
        return False

    def _too_large(self, data: Buffer, base: int) -> RemoteProtocolError | LimitExceeded:
        limits = self._limits
        if not self._trailers and self.request_line is None:
            if data.find(b" ", base + self.size, base + self.size + MAX_METHOD + 1) < 0:
                return _method_too_long()
            return _target_too_long(limits)
        return LimitExceeded("http1.max_head_size", limits.max_head_size, kind=LimitKind.HEAD_SIZE, what="request head")

    def _accept(self, line: bytes) -> None:
        if self.request_line is None and not self._trailers:
            self.request_line = _parse_request_line(line, self._limits)
            return
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise _bad_field_line(line)
        if len(self.fields) >= self._limits.max_fields:
            raise LimitExceeded(
                "http1.max_fields", self._limits.max_fields, kind=LimitKind.HEAD_SIZE, what="number of header fields"
            )
        self.fields.append((match[1].lower(), match[2].strip(b" \t")))


def _parse_request_line(line: bytes, limits: HeadLimits) -> tuple[bytes, bytes, bytes]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise RemoteProtocolError("malformed request line; send METHOD SP target SP HTTP/1.1")
    method, target, version = match.groups()
    if len(method) > MAX_METHOD:
        raise _method_too_long()
    if len(target) > limits.max_target_size:
        raise _target_too_long(limits)
    if version not in (b"1.1", b"1.0"):
        raise RemoteProtocolError(f"HTTP/{version.decode()} is not spoken here; use HTTP/1.1", http_status=505)
    return method, target, version


def _method_too_long() -> RemoteProtocolError:
    return RemoteProtocolError("a method this long is not implemented; use a registered one", http_status=501)


def _target_too_long(limits: HeadLimits) -> LimitExceeded:
    return LimitExceeded(
        "http1.max_target_size", limits.max_target_size, kind=LimitKind.TARGET_SIZE, what="request target"
    )


def _bad_field_line(line: bytes) -> RemoteProtocolError:
    if line[:1] in (b" ", b"\t"):
        return RemoteProtocolError("a folded header line (RFC 9112 5.2); send each field on one line")
    return RemoteProtocolError("malformed header line; send name, colon, value without space before the colon")


def assemble(method: bytes, target: bytes, version: bytes, fields: FieldList) -> RequestReceived:
    """What well-formed lines mean together.

    Raises:
        RemoteProtocolError: they contradict each other, or ask for what is not offered.
        LimitExceeded: Content-Length is beyond all reason.
    """
    seen: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _FRAMING:
            if name not in seen:
                seen[name] = value
            elif name == b"host" or name == b"content-length":
                raise RemoteProtocolError(f"more than one {name.decode()} field; send one")
            else:
                seen[name] += b", " + value
    path, query, authority = _split_target(method, target)
    host = seen.get(b"host")
    if host is None:
        if version == b"1.1":
            raise RemoteProtocolError("no Host field; HTTP/1.1 requires one (RFC 9112 3.2)")
    elif not _AUTHORITY.fullmatch(host):
        raise RemoteProtocolError("invalid Host field; send host or host:port")
    new = version == b"1.1"
    return RequestReceived(
        method=method,
        path=path,
        query=query,
        authority=host or b"" if authority is None else authority,
        http_version="1.1" if new else "1.0",
        fields=fields,
        content_length=(length := _body_length(seen, version)),
        # RFC 9110 10.1.1: the expectation of an HTTP/1.0 request is ignored.
        expects_continue=new and b"expect" in seen and _expects_continue(seen[b"expect"]),
        wants_websocket=new and b"upgrade" in seen and method == b"GET" and _wants_websocket(seen, length),
    )


def check_trailers(fields: FieldList) -> None:
    """Refuse trailer fields that would change what the head said (RFC 9110 6.5.1)."""
    for name, _ in fields:
        if name in _NOT_IN_TRAILERS:
            raise RemoteProtocolError(f"{name.decode()} in a trailer section; send it in the head")


def _split_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query and, of the absolute form, the authority (RFC 9112 3.2)."""
    if method == b"CONNECT":
        raise RemoteProtocolError("CONNECT is not offered: this is not a proxy", http_status=501)
    authority = None
    if target[0] != 0x2F:  # "/"
        if target == b"*" and method == b"OPTIONS":
            return target, b"", None
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not match[1] or not _AUTHORITY.fullmatch(match[1]) or match[1][:1] == b":":
            raise RemoteProtocolError("malformed request target; send a path, or http:// with host and path")
        # RFC 9112 3.2.2: Host is ignored where the target names the authority.
        authority, target = match.groups()
        if not target and method == b"OPTIONS":
            return b"*", b"", authority
        if target[:1] != b"/":
            target = b"/" + target
    if b"#" in target:
        raise RemoteProtocolError("a fragment in the request target; leave off what starts with #")
    path, _, query = target.partition(b"?")
    return path, query, authority


def _body_length(seen: dict[bytes, bytes], version: bytes) -> int | None:
    """Bytes of body, None where it is chunked (RFC 9112 6.3)."""
    length = seen.get(b"content-length")
    coding = seen.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise RemoteProtocolError("Content-Length with Transfer-Encoding (RFC 9112 6.1); send one of them")
        if version != b"1.1":
            raise RemoteProtocolError("Transfer-Encoding in an HTTP/1.0 request; send Content-Length")
        if coding.lower() != b"chunked":
            raise RemoteProtocolError("a transfer coding other than chunked; send chunked", http_status=501)
        return None
    if length is None:
        return 0
    if not length.isdigit():
        raise RemoteProtocolError("malformed Content-Length; send digits only")
    if len(length) > 18:
        raise LimitExceeded("http1.max_body_size", 10**18, kind=LimitKind.MESSAGE_SIZE, what="Content-Length")
    return int(length)


def _expects_continue(value: bytes) -> bool:
    for expectation in value.lower().split(b","):
        if expectation.strip(b" \t") not in (b"100-continue", b""):
            raise RemoteProtocolError("an expectation other than 100-continue; leave it off", http_status=417)
    return True


def _wants_websocket(seen: dict[bytes, bytes], length: int | None) -> bool:
    """Other upgrades, h2c among them, are ignored: the request is served as it stands (RFC 9110 7.8)."""
    if b"websocket" not in _tokens(seen[b"upgrade"]) or b"upgrade" not in _tokens(seen.get(b"connection", b"")):
        return False
    if length != 0:
        raise RemoteProtocolError("a WebSocket handshake with a body; leave the body off")
    return True


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t") for token in value.lower().split(b",")]
