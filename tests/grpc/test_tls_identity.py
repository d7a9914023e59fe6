"""Mutual TLS: who the client is, as handlers see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

pytest.importorskip("grpc", reason="grpcio is missing; install it to run its client")

import grpc
import trio

from engine import App, Config
from engine.config import TlsConfig
from engine.demo.generated.greet_engine import GreeterBase, greet_pb2
from engine.errors import StartupError
from engine.grpc import CallContext
from engine.server import Server
from engine.transport.tls import build_context
from examples.stock import greet_pb2_grpc

LIMIT = 20


class Identities(GreeterBase):
    async def say_hello(self, request: greet_pb2.HelloRequest, context: CallContext) -> greet_pb2.HelloReply:
        identity = context.tls_identity
        if identity is None:
            return greet_pb2.HelloReply(message=f"nobody over {context.peer.tls_version}")
        assert identity.certificate == context.peer.client_certificate
        names = ",".join((*identity.common_names, *identity.alternative_names))
        return greet_pb2.HelloReply(message=f"{names} {identity.pem[:27]}")


class StockIdentities(greet_pb2_grpc.GreeterServicer):
    async def SayHello(self, request: Any, context: Any) -> Any:
        known = context.auth_context()
        names = b",".join(context.peer_identities() or ()).decode()
        return greet_pb2.HelloReply(message=f"{sorted(known)} {context.peer_identity_key()} {names}")


class Files:
    """An authority, the server's certificate and a client's."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        server = ca.issue_cert("localhost")
        client = ca.issue_cert("spiffe.example", common_name="ada")
        self.ca, self.server = folder / "ca.pem", folder / "server.pem"
        ca.cert_pem.write_to_path(str(self.ca))
        server.private_key_and_cert_chain_pem.write_to_path(str(self.server))
        self.anonymous = grpc.ssl_channel_credentials(ca.cert_pem.bytes())
        chain = b"".join(each.bytes() for each in client.cert_chain_pems)
        self.known = grpc.ssl_channel_credentials(ca.cert_pem.bytes(), client.private_key_pem.bytes(), chain)
        other = trustme.CA().issue_cert("x", common_name="eve")
        chain = b"".join(each.bytes() for each in other.cert_chain_pems)
        self.foreign = grpc.ssl_channel_credentials(ca.cert_pem.bytes(), other.private_key_pem.bytes(), chain)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


async def asking(app: App, files: Files, *, required: bool, play: Callable[[Callable[[Any], Any]], None]) -> None:
    tls = TlsConfig(cert_file=str(files.server), client_ca_file=str(files.ca), require_client_certificate=required)

    def run() -> None:
        def ask(credentials: Any) -> Any:
            address = server.addresses[0].replace("127.0.0.1", "localhost")
            options = [("grpc.enable_retries", 0)]
            with grpc.secure_channel(address, credentials, options) as channel:
                stub = greet_pb2_grpc.GreeterStub(channel)
                return stub.SayHello(greet_pb2.HelloRequest(), timeout=LIMIT).message

        play(ask)

    server = Server(app, Config(tls=tls).replace(server__port=0))
    with trio.fail_after(2 * LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await trio.to_thread.run_sync(run)
            server.stop()


async def test_a_handler_learns_the_names_in_the_clients_certificate(files: Files) -> None:
    app = App()
    app.add_service(Identities())

    def play(ask: Callable[[Any], Any]) -> None:
        assert ask(files.known) == "ada,spiffe.example -----BEGIN CERTIFICATE-----"
        assert ask(files.anonymous) == "nobody over TLSv1.3"

    await asking(app, files, required=False, play=play)


async def test_without_a_certificate_of_our_authority_nobody_comes_in(files: Files) -> None:
    app = App()
    greet_pb2_grpc.add_GreeterServicer_to_server(StockIdentities(), app)

    def play(ask: Callable[[Any], Any]) -> None:
        keys = "['transport_security_type', 'x509_common_name', 'x509_pem_cert', 'x509_subject_alternative_name']"
        assert ask(files.known) == f"{keys} x509_subject_alternative_name spiffe.example"
        for credentials in (files.anonymous, files.foreign):
            with pytest.raises(grpc.RpcError) as caught:
                ask(credentials)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    await asking(app, files, required=True, play=play)


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_an_authority_that_cannot_be_read_stops_the_start(files: Files, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=r"cannot use tls\.client_ca_file"):
        build_context(TlsConfig(cert_file=str(files.server), client_ca_file=str(path)))
