"""TLS for a server: the context, its reload, and the handshake of one connection.

Owns: every choice about TLS (versions, ciphers, ALPN, tickets), and `TlsHandshakes` with the reload that
cannot break a running server. Never accepts, never closes the transport: the connection does.

Specs: RFC 8446 and RFC 5246 (TLS), RFC 7301 (ALPN), RFC 9113 section 9.2 (what HTTP/2 asks of TLS).
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from engine.config import ServerConfig, TlsConfig
from engine.errors import ConnectionClosed, StartupError
from engine.transport.exchange import TlsIdentity
from engine.transport.stream import ByteStream
from engine.transport.tls_stream import TlsByteStream

__all__ = ["TlsHandshakes", "TlsResult", "build_context"]

_log = logging.getLogger(__name__)

ALPN_PROTOCOLS = ("h2", "http/1.1")  # in the server's order of preference, which wins

# RFC 9113 9.2.2 wants ephemeral keys and AEAD of TLS 1.2. TLS 1.3 has nothing else; OpenSSL configures it apart.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_SELF_SIGNED_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class TlsResult:
    """The encrypted stream and what the handshake agreed on."""

    stream: TlsByteStream
    alpn: str | None  # None: the client offered nothing of ours; HTTP/1.1 may follow, HTTP/2 may not (RFC 9113 3.2)
    version: str  # "TLSv1.2" or "TLSv1.3"
    cipher: str
    client_certificate: bytes | None  # DER
    identity: TlsIdentity | None = None  # who the client is, by that certificate


# -- certificates --------------------------------------------------------------


def build_context(config: TlsConfig) -> ssl.SSLContext:
    """A context that has proved itself in a handshake with itself.

    Raises:
        StartupError: a file cannot be read or is not what it should be, or `trustme` is not installed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    context.options |= ssl.OP_NO_RENEGOTIATION  # not a default of Python's; a peer could make us work for nothing
    context.options |= ssl.OP_NO_COMPRESSION  # RFC 9113 9.2.1
    context.num_tickets = 1  # one is enough to resume; each is a signature's worth of bytes in every handshake
    if config.self_signed:
        _use_self_signed(context)
    else:
        _use_files(context, config)
    _prove(context)
    if config.client_ca_file is not None:
        _ask_for_certificates(context, config)
    return context


def _ask_for_certificates(context: ssl.SSLContext, config: TlsConfig) -> None:
    """Mutual TLS: clients show a certificate that one of these authorities has signed."""
    file = config.client_ca_file
    try:
        context.load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or error
        raise StartupError(f"cannot use tls.client_ca_file {file!r}: {reason}; name a PEM file") from None
    context.verify_mode = ssl.CERT_REQUIRED if config.require_client_certificate else ssl.CERT_OPTIONAL


def _use_self_signed(context: ssl.SSLContext) -> None:
    try:
        import trustme  # an optional extra, wanted by developers only
    except ImportError:
        raise StartupError(
            "tls.self_signed needs the package trustme: run pip install 'engine[tls-dev]', or give tls.cert_file"
        ) from None
    trustme.CA().issue_cert(*_SELF_SIGNED_NAMES).configure_cert(context)


def _use_files(context: ssl.SSLContext, config: TlsConfig) -> None:
    cert_file = config.cert_file or ""
    key_file = config.key_file or cert_file
    key_setting = "tls.key_file" if config.key_file else "tls.cert_file"
    for setting, file in (("tls.cert_file", cert_file), (key_setting, key_file)):
        try:
            with Path(file).open("rb"):
                pass  # the error of load_cert_chain does not say which of the two it means
        except OSError as error:
            raise StartupError(f"cannot read {setting} {file!r}: {error.strerror}; name a PEM file") from None

    def refuse_password() -> str:  # without it OpenSSL asks on the terminal and the start hangs
        raise StartupError(f"the key in {key_setting} {key_file!r} is encrypted; give it without a pass phrase")

    try:
        context.load_cert_chain(cert_file, config.key_file, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartupError(
                f"{key_setting} {key_file!r} is not the key of the certificate in {cert_file!r}; give its own"
            ) from None
        one = f"tls.cert_file {cert_file!r}"
        files = f"{one} does" if config.key_file is None else f"{one} and {key_setting} {key_file!r} do"
        raise StartupError(
            f"{files} not hold a PEM certificate and its key "
            f"({error.reason or error}); the certificate comes first in its file, its key is unencrypted PEM"
        ) from None


def _prove(context: ssl.SSLContext) -> None:
    """Shake hands with ourselves in memory: what the files' syntax does not show, this does.

    Raises:
        StartupError: no client could connect.
    """
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE  # trust is the client's business; this is about keys and ciphers
    client_context.set_alpn_protocols(ALPN_PROTOCOLS)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    waiting = [client, server]
    try:
        for _ in range(10):  # TLS 1.2 takes four turns, TLS 1.3 three
            for side in list(waiting):
                try:
                    side.do_handshake()
                    waiting.remove(side)
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLError as error:
        raise StartupError(f"the certificate cannot be used: {error.reason or error}; make a new one") from None
    if waiting or server.selected_alpn_protocol() != ALPN_PROTOCOLS[0]:
        raise StartupError("the certificate cannot be used: no handshake with it succeeds; make a new one")


# -- one connection ------------------------------------------------------------


class TlsHandshakes:
    """The certificates of one server, and the handshakes of its connections."""

    def __init__(self, tls: TlsConfig, server: ServerConfig) -> None:
        """
        Raises:
            StartupError: see `build_context`.
        """
        # immutable
        self._tls = tls
        self._server = server
        # A handshake is half a millisecond of arithmetic. Tokens bound how much of it is done before running
        # connections get a turn. They are not held while a client is being waited for: else a hundred that
        # connect and stay silent would lock out all others.
        self._limiter = trio.CapacityLimiter(server.max_tls_handshakes)
        # replaced as a whole by `reload`
        self.context = build_context(tls)

    def reload(self) -> bool:
        """Read the files again, for new connections. False: they are unusable, and the old ones stay.

        `SSLContext.load_cert_chain` on a live context breaks it for good when it fails half way, so
        this builds a new one and changes nothing but a reference.
        """
        try:
            self.context = build_context(self._tls)
        except StartupError as error:
            _log.error("certificates not reloaded, the old ones stay in use: %s", error)
            return False
        _log.info("certificates reloaded")
        return True

    async def handshake(self, transport: ByteStream, initial: bytes = b"") -> TlsResult:
        """Shake hands as the server, within `server.handshake_timeout`.

        After an error the transport stays the caller's to close; after cancellation it is good for nothing else.

        Args:
            initial: bytes that were read ahead.

        Raises:
            ConnectionClosed: there was no handshake; its reason says why.
        """
        server = self._server
        stream = TlsByteStream(transport, self.context, server_side=True, config=server, initial=initial)
        reason = ""
        with trio.move_on_after(server.handshake_timeout) as scope:
            try:
                await stream.handshake(self._limiter)
            except ssl.SSLError as error:
                reason = _reason(error)
            except ConnectionClosed:
                reason = "the connection was lost"
        if scope.cancelled_caught:
            reason = f"not finished within server.handshake_timeout ({server.handshake_timeout:g} s)"
        if reason:
            _failures.report(reason)
            raise ConnectionClosed(1006, f"TLS handshake: {reason}")
        tls = stream.tls
        cipher = tls.cipher()
        certificate = tls.getpeercert(binary_form=True)
        identity = _identity(certificate, tls.getpeercert() or {}) if certificate else None
        alpn = tls.selected_alpn_protocol()
        return TlsResult(stream, alpn, tls.version() or "", cipher[0] if cipher else "", certificate, identity)


def _identity(certificate: bytes, described: Mapping[str, Any]) -> TlsIdentity:
    """The names in a verified certificate, as `SSLSocket.getpeercert` describes it."""
    subject = [pair for part in described.get("subject", ()) for pair in part]
    return TlsIdentity(
        certificate,
        tuple(value for key, value in subject if key == "commonName"),
        tuple(value for _, value in described.get("subjectAltName", ())),
    )


_REASONS = {
    "HTTP_REQUEST": "the client speaks plain HTTP",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the client offers nothing newer than TLS 1.1",
    "NO_SHARED_CIPHER": "the client offers none of our ciphers",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust the certificate's issuer",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not trust the certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not trust the certificate",
}


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "the client ended the connection"
    return _REASONS.get(error.reason or "", f"{error.reason or error}")


class _FailureLog:
    """One line a second at most: any port scanner can fail a thousand handshakes in that time."""

    def __init__(self) -> None:
        self._next = 0.0
        self._unreported = 0

    def report(self, reason: str) -> None:
        now = time.monotonic()
        if now < self._next:
            self._unreported += 1
            return
        more = f" (and {self._unreported} more since the last line)" if self._unreported else ""
        self._next, self._unreported = now + 1.0, 0
        _log.info("TLS handshake failed: %s%s", reason, more)


_failures = _FailureLog()
