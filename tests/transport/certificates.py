"""Certificates and encrypted connections for the tests of TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import trio
import trio.testing
import trustme

from engine.config import TlsConfig
from engine.transport.stream import WrappedByteStream
from engine.transport.tls import TlsHandshakes, TlsResult

READ_SIZE = 65536


class Files:
    """A certificate on disk and an authority that clients can trust."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.write("localhost")

    def write(self, name: str) -> None:
        issued = self.ca.issue_cert(name, "localhost")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    @property
    def config(self) -> TlsConfig:
        return TlsConfig(cert_file=str(self.cert), key_file=str(self.key))

    def client(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


def wrap(stream: trio.abc.Stream) -> WrappedByteStream:
    return WrappedByteStream(stream, read_size=READ_SIZE)


async def agree(
    handshakes: TlsHandshakes, client_context: ssl.SSLContext
) -> tuple[TlsResult, trio.SSLStream[trio.abc.Stream]]:
    """Both ends of an encrypted connection in memory: ours, and Trio's as the client."""
    near, far = trio.testing.memory_stream_pair()
    client: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
        far, client_context, server_hostname="localhost", https_compatible=False
    )
    results = []

    async def serve() -> None:
        results.append(await handshakes.handshake(wrap(near)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(client.do_handshake)
    return results[0], client
