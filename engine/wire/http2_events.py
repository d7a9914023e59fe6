"""What an HTTP/2 connection tells its driver.

Owns: the event types of `engine.wire.http2`. Nothing here knows how they come about. They are structs, for
one is made of every frame: a frozen dataclass takes five times as long to make, and holds no reference cycle either.
"""

from __future__ import annotations

from msgspec import Struct

from engine.errors import LimitExceeded, RemoteProtocolError
from engine.wire.http2_fields import Fields, RequestFields


class RequestReceived(Struct, frozen=True, gc=False):
    """Server: a request head that obeys RFC 9113 section 8. `end_stream`: it has no body.

    `head` is the same object for the same header block as long as the block's meaning does not
    change, so a driver may remember what it derived from it by identity.
    """

    stream_id: int
    head: RequestFields
    end_stream: bool

    @property
    def fields(self) -> Fields:
        """The field list as sent, pseudo-header fields included."""
        return self.head.fields

    @property
    def method(self) -> bytes:
        return self.head.method

    @property
    def scheme(self) -> bytes:
        return self.head.scheme

    @property
    def authority(self) -> bytes:
        """`:authority`, else Host, else empty."""
        return self.head.authority

    @property
    def path(self) -> bytes:
        """`:path`; empty on a plain CONNECT."""
        return self.head.path

    @property
    def protocol(self) -> bytes | None:
        """`:protocol` of an extended CONNECT (RFC 8441)."""
        return self.head.protocol

    @property
    def headers(self) -> Fields:
        """The regular fields, cookies joined; never the same object for two different heads."""
        return self.head.headers


class RequestRefused(Struct, frozen=True, gc=False):
    """Server: a request head over a limit. Answer it with `status`; the connection lives on."""

    stream_id: int
    error: LimitExceeded
    end_stream: bool
    status: int = 431  # RFC 6585 section 5
    grpc: bool = False  # it is a call, whose client looks for a status of gRPC


class ResponseReceived(Struct, frozen=True, gc=False):
    """Client: a response head; a `status` below 200 is informational and another head follows."""

    stream_id: int
    status: int
    headers: Fields
    end_stream: bool


class DataReceived(Struct, frozen=True, gc=False):
    """Body bytes. Give `flow_length` (padding included) to `Http2Core.consumed` once they are used."""

    stream_id: int
    data: bytes
    flow_length: int
    end_stream: bool


class TrailersReceived(Struct, frozen=True, gc=False):
    """The trailer section, which ends the peer's side of the stream."""

    stream_id: int
    headers: Fields


class StreamReset(Struct, frozen=True, gc=False):
    """The stream is gone: by the peer's RST_STREAM, or by ours for a stream error of the peer."""

    stream_id: int
    code: int
    by_peer: bool


class PingAcknowledged(Struct, frozen=True, gc=False):
    """The answer to a PING of ours."""

    payload: bytes


class GoAwayReceived(Struct, frozen=True, gc=False):
    """The peer opens (client) or takes (server) no more streams; those up to the id may finish."""

    last_stream_id: int
    code: int
    debug: bytes


class SettingsAcknowledged(Struct, frozen=True, gc=False):
    """The peer has applied our SETTINGS."""


class PeerSettingsChanged(Struct, frozen=True, gc=False):
    """The peer's SETTINGS have been applied; our acknowledgement is queued."""


class ConnectionFailed(Struct, frozen=True):
    """Terminal: the GOAWAY that answers `error` is in `data_to_send`; further input is discarded."""

    error: RemoteProtocolError | LimitExceeded


Http2Event = (
    RequestReceived
    | RequestRefused
    | ResponseReceived
    | DataReceived
    | TrailersReceived
    | StreamReset
    | PingAcknowledged
    | GoAwayReceived
    | SettingsAcknowledged
    | PeerSettingsChanged
    | ConnectionFailed
)
