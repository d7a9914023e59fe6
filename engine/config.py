"""Every limit and time-out of the engine, by name: its unit, its default and why.

The dataclasses here are frozen: one `Config` describes one server and is shared by all of its
connections. The name of a setting, as errors and documents quote it, is its section and its
field: `websocket.max_message_size`. Nothing here reads files, flags or the environment; that is
the work of `engine.cli`.

All sizes are bytes, all times are seconds, `math.inf` switches a time-out off.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError

__all__ = [
    "Bucket",
    "ChannelConfig",
    "ClientTlsConfig",
    "Config",
    "GrpcConfig",
    "Http1Config",
    "Http2Config",
    "ServerConfig",
    "SignalRConfig",
    "TlsConfig",
    "WebSocketConfig",
]

KIB = 1024
MIB = 1024 * 1024

SLOW_CLIENT_POLICIES = ("close", "drop_oldest", "drop_newest")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: `burst` events at once, refilled by `per_second`."""

    burst: float
    per_second: float


def _positive(section: str, settings: object, *, zero: tuple[str, ...] = ()) -> None:
    """Refuse numbers that are not above zero; the fields named in `zero` may be zero."""
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]  # every caller is a dataclass
        value = getattr(settings, item.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        floor_is_ok = value >= 0 if item.name in zero else value > 0
        if not floor_is_ok or math.isnan(value):
            least = "0 or more" if item.name in zero else "more than 0"
            raise ConfigError(f"{section}.{item.name}", value, f"give a number that is {least}")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Listeners, admission and the stop."""

    host: str = "127.0.0.1"  # loopback: nothing is offered to a network that nobody asked for; or "unix:/path"
    port: int = 8000
    backlog: int = 2048  # uvicorn's and gunicorn's; the kernel caps it at somaxconn
    max_connections: int = 10_000  # a worker; beyond it connections wait in the backlog
    handshake_timeout: float = 10.0  # first bytes, TLS and HTTP/2 preface each; Kestrel's TLS limit
    max_tls_handshakes: int = 100  # at once: each costs CPU that running connections need
    graceful_timeout: float = 10.0  # from the stop signal until running exchanges are cancelled
    write_timeout: float = 30.0  # no byte accepted by the peer for so long: it is gone (nghttpx)
    close_timeout: float = 1.0  # lingering close: read and discard so long that an answer arrives
    outbox_size: int = 1 * MIB  # bytes that a slow client of a broadcast may leave queued; beyond it, it is closed
    read_size: int = 256 * KIB  # one read of a socket at most, as asyncio's; bulk grows into it, floods do not
    shared_poller: bool = True  # Linux: one epoll for all plain sockets; False: each waits for its own
    busy_poll: float = 0.0  # poll on so long after a message: halves latency, costs up to a core (transport/poller.py)

    def __post_init__(self) -> None:
        _positive("server", self, zero=("port", "close_timeout", "graceful_timeout", "busy_poll"))
        if not 0 <= self.port <= 65535:
            raise ConfigError("server.port", self.port, "give a port from 0 to 65535; 0 picks a free one")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Where certificates come from; see `engine.transport.tls`."""

    cert_file: str | None = None  # PEM, the chain with the leaf first
    key_file: str | None = None  # PEM; None: the key is in `cert_file`
    self_signed: bool = False  # make a throw-away certificate for localhost; development only
    port: int | None = None  # None: the same port as cleartext, told by the first byte
    client_ca_file: str | None = None  # PEM; clients show a certificate that one of these has signed
    require_client_certificate: bool = True  # False: with client_ca_file, a client may come without one

    def __post_init__(self) -> None:
        if self.self_signed and self.cert_file is not None:
            raise ConfigError("tls.self_signed", True, "drop it, or drop tls.cert_file: it is one or the other")
        if not self.self_signed and self.cert_file is None:
            raise ConfigError("tls.cert_file", None, "name a PEM file, or set tls.self_signed for development")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError("tls.port", self.port, "give a port from 0 to 65535; 0 picks a free one")


@dataclass(frozen=True, slots=True)
class Http1Config:
    """HTTP/1.1 (RFC 9112)."""

    max_head_size: int = 32 * KIB  # request line and fields; Kestrel's header limit
    max_target_size: int = 8 * KIB  # the request target alone: 414; nginx's large_client_header_buffers
    max_fields: int = 100  # Kestrel's and Envoy's
    head_timeout: float = 30.0  # absolute, from a head's first byte; Kestrel's RequestHeadersTimeout
    keep_alive_timeout: float = 75.0  # idle between requests; nginx's
    max_body_size: int = 30_000_000  # Kestrel's MaxRequestBodySize
    min_body_rate: float = 240.0  # bytes a second of a request body; Kestrel's
    min_body_rate_grace: float = 5.0  # before that rate is asked for; Kestrel's
    receive_buffer: int = 64 * KIB  # of a body or of pipelined requests, unread by the handler
    half_close_grace: float = 0.25  # a client may end its side (RFC 9112 9.6) and still want the answer

    def __post_init__(self) -> None:
        _positive("http1", self, zero=("min_body_rate", "half_close_grace"))


@dataclass(frozen=True, slots=True)
class Http2Config:
    """HTTP/2 (RFC 9113) and the guard in front of it.

    The buckets answer floods with GOAWAY(ENHANCE_YOUR_CALM); the numbers are those of nghttp2,
    Envoy and Go, scaled to what one connection of an honest client can need.
    """

    max_concurrent_streams: int = 100  # announced; counted in running handlers, not open streams
    max_frame_size: int = 16 * KIB  # RFC 9113 4.2: the least an endpoint must accept
    max_header_block: int = 64 * KIB  # encoded, over HEADERS and CONTINUATION
    max_header_list: int = 32 * KIB  # decoded, 32 bytes a field added (RFC 9113 6.5.2); 431 beyond
    max_fields: int = 100  # 431 beyond
    max_continuations: int = 8  # a block; nghttp2's
    max_settings_entries: int = 32  # a SETTINGS frame; nghttp2's
    header_table_size: int = 4096  # HPACK, both ways; what a peer announces beyond it is not used
    stream_window: int = 256 * KIB  # receive credit of a stream, given back on consumption
    connection_window: int = 1 * MIB  # receive credit of a connection, given back on arrival
    max_unread: int = 4 * MIB  # bytes that one connection may have waiting for its handlers
    send_buffer: int = 64 * KIB  # bytes queued on a stream before its writer waits
    connection_send_buffer: int = 1 * MIB  # shared by the streams whose writers wait: the more, the less for each
    preface_timeout: float = 10.0  # until the preface and the first SETTINGS are complete
    header_block_timeout: float = 10.0  # until END_HEADERS
    settings_ack_timeout: float = 10.0  # RFC 9113 6.5.3: SETTINGS_TIMEOUT
    idle_timeout: float = 120.0  # without a stream: GOAWAY and close
    zero_window_timeout: float = 60.0  # data is waiting and the peer grants no credit
    drain_ping_timeout: float = 5.0  # between the two GOAWAYs of a drain; grpc-go's
    keepalive_time: float = 7200.0  # without a byte from the client: PING; gRFC A8
    keepalive_timeout: float = 20.0  # for any byte after that PING; gRFC A8
    max_connection_age: float = math.inf  # then a graceful end, 10 % sooner or later; gRFC A9
    max_connection_age_grace: float = math.inf  # for what runs at that time; gRFC A9
    max_body_size: int = 30_000_000  # as http1.max_body_size
    min_body_rate: float = 240.0  # as http1.min_body_rate; not for streaming endpoints
    min_body_rate_grace: float = 5.0  # as http1.min_body_rate_grace
    max_control_backlog: int = 64 * KIB  # replies (ACK, RST) that wait to be sent; reading stops at it
    resets: Bucket = field(default_factory=lambda: Bucket(200, 50))  # at least max_concurrent_streams; CVE-2023-44487
    glitches: Bucket = field(default_factory=lambda: Bucket(200, 20))  # legal but useless frames
    settings: Bucket = field(default_factory=lambda: Bucket(20, 1))  # CVE-2019-9515
    pings: Bucket = field(default_factory=lambda: Bucket(50, 10))  # CVE-2019-9512
    max_empty_data: int = 10  # consecutive empty DATA frames without END_STREAM; CVE-2019-9518
    max_window_updates: int = 10  # twice so many for each DATA frame sent, 2 a stream and 5; Envoy's; CVE-2019-9511
    max_overhead: int = 8  # bytes for each byte of header or body that they carry, beyond 1 MiB; nginx's

    def __post_init__(self) -> None:
        _positive("http2", self, zero=("min_body_rate",))
        if not 16 * KIB <= self.max_frame_size <= 2**24 - 1:
            raise ConfigError("http2.max_frame_size", self.max_frame_size, "give 16384 to 16777215 (RFC 9113 4.2)")
        for name in ("stream_window", "connection_window"):
            if not 65_535 <= getattr(self, name) <= 2**31 - 1:
                raise ConfigError(f"http2.{name}", getattr(self, name), "give 65535 to 2147483647 (RFC 9113 6.9.1)")


@dataclass(frozen=True, slots=True)
class WebSocketConfig:
    """WebSocket (RFC 6455)."""

    max_message_size: int = 1 * MIB  # websockets' and trio-websocket's
    max_queue: int = 16  # whole messages that wait for the handler before reading pauses
    max_queue_size: int = 1 * MIB  # the same in bytes
    max_fragments: int = 131_072  # of one message; 16 MiB in fragments of 128 bytes
    ping_interval: float = 20.0  # websockets'
    ping_timeout: float = 20.0  # websockets'
    close_timeout: float = 5.0  # for the peer's half of the close handshake; ASP.NET Core's
    max_unsent: int = 1 * MIB  # bytes that a slow peer has not taken; `try_send` and `broadcast` stop at it
    slow_consumer: str = "close"  # what a broadcast does to such a peer: close (1013), drop_oldest, drop_newest
    compression: bool = True  # permessage-deflate (RFC 7692), where the client offers it
    compression_threshold: int = 256  # bytes; shorter messages are sent as they are: zlib costs 5 to 10 µs
    compression_level: int = 6  # zlib's default
    compression_memory_level: int = 5  # websockets'; with 12 bits 32 KiB a connection instead of 256
    server_window_bits: int = 12  # of what we compress, 8 to 15; websockets'
    client_window_bits: int = 12  # of what clients compress, where they let us choose; websockets'
    server_context_takeover: bool = True  # what we compress refers to earlier messages
    client_context_takeover: bool = True  # what clients compress may

    def __post_init__(self) -> None:
        _positive("websocket", self, zero=("compression_threshold", "compression_level"))
        if self.slow_consumer not in ("close", "drop_oldest", "drop_newest"):
            hint = "give close, drop_oldest or drop_newest"
            raise ConfigError("websocket.slow_consumer", self.slow_consumer, hint)
        for name in ("server_window_bits", "client_window_bits"):
            if not 8 <= getattr(self, name) <= 15:
                raise ConfigError(f"websocket.{name}", getattr(self, name), "give 8 to 15 (RFC 7692 7.1.2)")
        for name in ("compression_level", "compression_memory_level"):
            if getattr(self, name) > 9:
                raise ConfigError(f"websocket.{name}", getattr(self, name), "zlib knows levels up to 9")


_PING_INTERVALS = ("min_ping_interval", "min_ping_interval_without_calls")


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """gRPC, gRPC-Web and Connect."""

    max_receive_message_size: int = 4 * MIB  # the default of every official implementation
    max_metadata_size: int = 16 * KIB  # hard limit, 32 bytes a field added; gRPC suggests 8 KiB
    max_status_message_size: int = 4 * KIB  # percent-encoded; clients may refuse trailers over 8 KiB
    min_ping_interval: float = 300.0  # between PINGs of a client with open streams; gRFC A8
    min_ping_interval_without_calls: float = 7200.0  # without; gRFC A8. min_ping_interval permits keep-alive then
    max_ping_strikes: int = 2  # sooner PINGs that are overlooked until HEADERS or DATA are sent; gRFC A8
    cors_origins: tuple[str, ...] = ()  # pages that may call by gRPC-Web and Connect; "*": all; its own always may
    cors_exposed_headers: tuple[str, ...] = ()  # to such pages, beside what the protocols use and the metadata sent
    cors_max_age: float = 7200.0  # that a browser may remember a permission; Chromium's own limit

    def __post_init__(self) -> None:
        _positive("grpc", self, zero=("cors_max_age", "max_ping_strikes", *_PING_INTERVALS))
        for name in ("cors_origins", "cors_exposed_headers"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"grpc.{name}", value, f"give a tuple: ({value!r},)")


@dataclass(frozen=True, slots=True)
class ClientTlsConfig:
    """How an outgoing connection is encrypted; see `engine.transport.tls_client`."""

    ca_file: str | None = None  # PEM; None: the authorities that the system trusts
    ca_data: str | None = None  # the same as text
    cert_file: str | None = None  # PEM of our own certificate, for servers that ask for one
    key_file: str | None = None  # PEM; None: the key is in `cert_file`
    server_name: str | None = None  # to ask for and to check; None: the host of the target
    verify: bool = True  # False: any certificate will do; development only

    def __post_init__(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError("client_tls.cert_file", None, "name the PEM file whose key client_tls.key_file is")


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """Limits and time-outs of one gRPC `Channel`."""

    max_receive_message_size: int = 4 * MIB  # the default of every official implementation
    max_metadata_size: int = 16 * KIB  # of a response's head or trailers, 32 bytes a field added
    connect_timeout: float = 20.0  # a whole attempt, TLS and SETTINGS included; MIN_CONNECT_TIMEOUT
    backoff_initial: float = 1.0  # doc/connection-backoff.md
    backoff_multiplier: float = 1.6  # likewise
    backoff_jitter: float = 0.2  # likewise
    backoff_max: float = 120.0  # likewise
    attempt_delay: float = 0.25  # before the next address is tried beside a slow one; gRFC A61, RFC 8305
    keepalive_time: float = math.inf  # without a byte from the server: PING; gRFC A8
    keepalive_timeout: float = 20.0  # for its answer; gRFC A8
    keepalive_without_calls: bool = False  # gRFC A8
    min_keepalive_time: float = 10.0  # gRFC A8: less is raised to it
    close_timeout: float = 1.0  # from our GOAWAY until the server has closed, too
    retry_buffer_size: int = 256 * KIB  # of one call's requests kept for a retry; C-core's
    http2: Http2Config = field(default_factory=Http2Config)
    server: ServerConfig = field(default_factory=ServerConfig)  # write_timeout and read_size are used

    def __post_init__(self) -> None:
        _positive("channel", self, zero=("attempt_delay", "backoff_jitter", "close_timeout", "retry_buffer_size"))


@dataclass(frozen=True, slots=True)
class SignalRConfig:
    """SignalR hubs; the defaults are those of ASP.NET Core (HubOptions, HttpConnectionDispatcherOptions)."""

    max_message_size: int = 32 * KIB  # MaximumReceiveMessageSize
    keep_alive_interval: float = 15.0  # KeepAliveInterval
    client_timeout: float = 30.0  # ClientTimeoutInterval
    handshake_timeout: float = 15.0  # HandshakeTimeout
    disconnect_timeout: float = 15.0  # DisconnectTimeout: no transport came, no poll, or none after a cut
    long_poll_timeout: float = 90.0  # LongPolling.PollTimeout: an empty answer after so long
    parallel_invocations: int = 1  # MaximumParallelInvocationsPerClient
    max_pending_invocations: int = 64  # received and not yet started; reading slows down at it
    max_pending_size: int = MIB  # bytes of their arguments; reading stops at it, and with it cancels and pings
    max_negotiated: int = 10_000  # tokens given out that no transport has claimed yet
    max_early_data: int = 16 * KIB  # posted with one token before a transport is open; a handshake is 40 bytes
    max_groups: int = 1_000  # that one connection may be a member of
    stream_buffer_capacity: int = 10  # StreamBufferCapacity: items of an upload that wait before reading slows down
    max_upload_backlog: int = 4 * MIB  # unread items of all uploads of a connection; then the growing one fails
    max_streams: int = 1_000  # of one connection at once, in both directions together
    invocation_rate: float = math.inf  # a second from one connection; more are refused
    invocation_burst: int = 100  # that may come at once within that rate
    client_result_timeout: float = 60.0  # ASP.NET Core waits for ever; a method that asks may choose its own
    stateful_reconnect: bool = True  # AllowStatefulReconnects: for clients that ask for it
    resume_buffer_size: int = 100_000  # StatefulReconnectBufferSize: unacknowledged bytes before senders wait
    close_on_authentication_expiration: bool = False  # CloseOnAuthenticationExpiration
    authentication_refresh: bool = False  # EnableAuthenticationRefresh: POST PATH/refresh with a new token
    minimum_negotiate_version: int = 0  # MinimumProtocolVersion
    drain_rate: float = 500.0  # clients a second that a stopping server tells to come back, over WebSockets
    slow_client: str = "close"  # broadcasts beyond server.outbox_size: close, drop_oldest or drop_newest
    cors_origins: tuple[str, ...] = ()  # origins whose pages may use the hub, with credentials; "*" for all

    def __post_init__(self) -> None:
        _positive("signalr", self, zero=("minimum_negotiate_version",))
        if self.slow_client not in SLOW_CLIENT_POLICIES:
            known = ", ".join(SLOW_CLIENT_POLICIES)
            raise ConfigError("signalr.slow_client", self.slow_client, f"give one of {known}")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one server."""

    server: ServerConfig = field(default_factory=ServerConfig)
    tls: TlsConfig | None = None
    http1: Http1Config = field(default_factory=Http1Config)
    http2: Http2Config = field(default_factory=Http2Config)
    websocket: WebSocketConfig = field(default_factory=WebSocketConfig)
    grpc: GrpcConfig = field(default_factory=GrpcConfig)
    signalr: SignalRConfig = field(default_factory=SignalRConfig)
    detailed_errors: bool = False  # True: the text of a handler's unexpected error reaches the client

    def replace(self, **settings: Any) -> Config:
        """Copy with settings changed, named by section and field joined with two underscores.

        `config.replace(server__port=9000, detailed_errors=True)`

        Raises:
            ConfigError: no such setting, or a value that it refuses.
        """
        sections: dict[str, dict[str, Any]] = {}
        changed: dict[str, Any] = {}
        for name, value in settings.items():
            section, separator, key = name.partition("__")
            if not separator:
                self._require_field(self, name, name)
                changed[name] = value
                continue
            self._require_field(self, section, name.replace("__", "."))
            sections.setdefault(section, {})[key] = value
        for section, values in sections.items():
            current = getattr(self, section)
            for key in values:
                self._require_field(current, key, f"{section}.{key}")
            changed[section] = dataclasses.replace(current, **values)
        return dataclasses.replace(self, **changed)

    @staticmethod
    def _require_field(settings: object, key: str, full_name: str) -> None:
        names = [item.name for item in dataclasses.fields(settings)] if dataclasses.is_dataclass(settings) else []
        if key not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(full_name, None, f"there is no such setting; known here: {known}")
