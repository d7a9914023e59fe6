"""TLS for a client: the contexts, and the handshake of one connection.

Owns: every choice about TLS on our side as a client, and the words for what goes wrong. Never connects.

Specs: RFC 8446 and RFC 5246 (TLS), RFC 6066 section 3 (SNI), RFC 7301 (ALPN), RFC 9113 section 3.2.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trio

from engine.config import ClientTlsConfig, ServerConfig
from engine.errors import ConfigError, ConnectionClosed
from engine.transport.stream import ByteStream
from engine.transport.tls_stream import TlsByteStream

__all__ = ["TlsClient", "client_context", "default_tls_context", "start_tls"]

_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9113 9.2.2: ephemeral keys and AEAD only


@dataclass(frozen=True, slots=True)
class TlsClient:
    """What a TLS handshake needs."""

    context: ssl.SSLContext
    server_name: str
    alpn: str | None = None  # what must be agreed on; None: anything


@cache
def default_tls_context(alpn: str) -> ssl.SSLContext:
    """Trusts what the system trusts, TLS 1.2 and up, and offers one protocol; shared, so leave it as it is."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9113 9.2.1
    context.set_alpn_protocols([alpn])
    return context


def client_context(config: ClientTlsConfig, alpn: Sequence[str]) -> ssl.SSLContext:
    """The context for connections to servers.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.set_alpn_protocols(list(alpn))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION  # RFC 9113 9.2.1
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.ca_file is None and config.ca_data is None:
        context.load_default_certs()
    else:
        _load_authorities(context, config)
    if config.cert_file is not None:
        _load_certificate(context, config.cert_file, config.key_file)
    return context


def _load_authorities(context: ssl.SSLContext, config: ClientTlsConfig) -> None:
    for setting, file in (("client_tls.ca_file", config.ca_file), ("client_tls.ca_data", None)):
        data = config.ca_data if file is None else None
        if file is None and data is None:
            continue
        try:
            context.load_verify_locations(cafile=file, cadata=data)
        except ssl.SSLError as error:
            raise ConfigError(setting, file, f"give certificates in PEM form ({error.reason or error})") from None
        except OSError as error:
            raise ConfigError(setting, file, f"name a PEM file that can be read ({error.strerror})") from None


def _load_certificate(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    def refuse_password() -> str:  # without it OpenSSL asks on the terminal
        raise ConfigError("client_tls.key_file", key_file or cert_file, "give the key without a pass phrase")

    for file in filter(None, (cert_file, key_file)):
        if not Path(file).is_file():
            raise ConfigError("client_tls.cert_file", file, "name PEM files of our certificate and its key")
    try:
        context.load_cert_chain(cert_file, key_file, password=refuse_password)
    except ssl.SSLError as error:
        hint = f"give a PEM certificate and its own key ({error.reason or error})"
        raise ConfigError("client_tls.cert_file", cert_file, hint) from None


async def start_tls(transport: ByteStream, tls: TlsClient, config: ServerConfig, initial: bytes = b"") -> TlsByteStream:
    """Shake hands as the client; the transport is closed where that fails.

    Args:
        config: see `TlsByteStream`.
        initial: bytes of the server that were read before.

    Raises:
        ConnectionClosed: the handshake failed, or agreed on another protocol.
    """
    step = f"TLS handshake with {tls.server_name}"
    try:
        stream = TlsByteStream(transport, tls.context, server_name=tls.server_name, config=config, initial=initial)
        try:
            await stream.handshake()
        except ssl.SSLError as error:
            raise ConnectionClosed(1006, f"{step}: {_reason(error)}") from error
        except ConnectionClosed as error:
            raise ConnectionClosed(1006, f"{step}: {error.reason}") from error
        agreed = stream.tls.selected_alpn_protocol()
        if tls.alpn is not None and agreed != tls.alpn:
            why = f"the server agreed on {agreed or 'no protocol'} by ALPN (RFC 7301), not on {tls.alpn}"
            raise ConnectionClosed(1006, f"{step}: {why}; give a context that offers it, to a server that speaks it")
    except BaseException:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + config.close_timeout):
            await transport.aclose()
        raise
    return stream


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted, {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "the server ended the connection"
    return error.reason or str(error)
