"""TLS of a server: what is agreed on, who is refused, and reloads that cannot break a running server."""

from __future__ import annotations

import builtins
import ssl

import pytest
import trio
import trio.testing
import trustme

from engine.config import ServerConfig, TlsConfig
from engine.errors import ConnectionClosed, StartupError
from engine.transport import tls as tls_module
from engine.transport.tls import TlsHandshakes, build_context
from tests.transport.certificates import agree, wrap

# -- what is agreed on ---------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (("h2", "http/1.1"), "h2"),
        (("http/1.1", "h2"), "h2"),
        (("http/1.1",), "http/1.1"),
        (("spdy/3",), None),
        ((), None),
    ],
)
async def test_alpn_follows_the_servers_preference_and_may_agree_on_nothing(files, handshakes, offered, agreed):
    result, client = await agree(handshakes, files.client(*offered))
    assert result.alpn == agreed
    assert client.selected_alpn_protocol() == agreed


async def test_tls_1_3_is_agreed_on_where_the_client_speaks_it(files, handshakes):
    result, _ = await agree(handshakes, files.client("h2"))
    assert result.version == "TLSv1.3"
    assert result.client_certificate is None


async def test_tls_1_2_is_agreed_on_with_an_ephemeral_aead_cipher(files, handshakes):
    context = files.client("h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    result, _ = await agree(handshakes, context)
    assert result.version == "TLSv1.2"
    assert result.cipher.startswith("ECDHE-")
    assert result.cipher.endswith(("GCM-SHA256", "GCM-SHA384", "POLY1305"))


async def test_the_context_is_strict(files):
    context = build_context(files.config)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.num_tickets == 1
    old = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in old)


async def test_a_self_signed_certificate_is_for_localhost():
    handshakes = TlsHandshakes(TlsConfig(self_signed=True), ServerConfig())
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    result, client = await agree(handshakes, context)
    assert result.version == "TLSv1.3"
    assert b"localhost" in client.getpeercert(binary_form=True)


# -- who is refused ------------------------------------------------------------


async def test_a_silent_client_is_given_up_at_the_deadline(handshakes, autojump_clock):
    near, _far = trio.testing.memory_stream_pair()
    started = trio.current_time()
    with pytest.raises(ConnectionClosed, match=r"server\.handshake_timeout \(10 s\)"):
        await handshakes.handshake(wrap(near))
    assert trio.current_time() - started == pytest.approx(10)


async def test_a_client_that_stops_half_way_is_given_up_at_the_deadline(files, handshakes, autojump_clock):
    near, far = trio.testing.memory_stream_pair()
    outgoing = ssl.MemoryBIO()
    client = files.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    await far.send_all(outgoing.read()[:100])
    with pytest.raises(ConnectionClosed, match="not finished"):
        await handshakes.handshake(wrap(near))


async def test_a_client_that_is_refused_is_told_why_by_an_alert(files, handshakes):
    near, far = trio.testing.memory_stream_pair()
    context = files.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256")  # no ephemeral key
    client = trio.SSLStream(far, context, server_hostname="localhost")

    async def serve() -> None:
        with pytest.raises(ConnectionClosed, match="none of our ciphers"):
            await handshakes.handshake(wrap(near))
        await near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(trio.BrokenResourceError) as refused:
            await client.do_handshake()
    assert refused.value.__cause__.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"


async def test_silent_clients_do_not_lock_out_others(files, autojump_clock):
    handshakes = TlsHandshakes(files.config, ServerConfig(max_tls_handshakes=1))
    async with trio.open_nursery() as nursery:
        kept = []
        for first_bytes in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
            near, far = trio.testing.memory_stream_pair()
            kept.append(far)
            if first_bytes:
                await far.send_all(first_bytes)
            nursery.start_soon(handshakes.handshake, wrap(near))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await agree(handshakes, files.client())
        nursery.cancel_scope.cancel()


async def test_the_limiter_is_given_back_however_a_handshake_ends(files, autojump_clock):
    handshakes = TlsHandshakes(files.config, ServerConfig(max_tls_handshakes=1))
    for data in (b"garbage" * 10, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05abcde", b""):
        near, far = trio.testing.memory_stream_pair()
        if data:
            await far.send_all(data)
        await far.send_eof()
        with pytest.raises(ConnectionClosed):
            await handshakes.handshake(wrap(near))
    result, _ = await agree(handshakes, files.client("h2"))
    assert result.alpn == "h2"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "plain HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "does not speak TLS"),
        (bytes(range(256)), "does not speak TLS"),
        (b"\x16\x03\x01\x00\x05hello", "TLS handshake"),
        (b"\x16", "ended the connection"),
    ],
)
async def test_what_is_not_tls_is_refused_with_a_reason(handshakes, data, reason):
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(data)
    await far.send_eof()
    with pytest.raises(ConnectionClosed, match=reason):
        await handshakes.handshake(wrap(near))


async def test_a_client_of_tls_1_1_only_is_refused(handshakes):
    # A ClientHello of TLS 1.1 (client_version 03 02), without extensions.
    suites = bytes.fromhex("c013c014002f0035")
    hello = b"\x03\x02" + bytes(32) + b"\x00" + len(suites).to_bytes(2, "big") + suites + b"\x01\x00"
    record = b"\x01" + len(hello).to_bytes(3, "big") + hello
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record)
    with pytest.raises(ConnectionClosed, match=r"nothing newer than TLS 1\.1"):
        await handshakes.handshake(wrap(near))


async def test_a_client_that_does_not_trust_us_is_named_so(handshakes):
    near, far = trio.testing.memory_stream_pair()
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in TLS 1.3 its alert comes after the handshake
    bio_in, bio_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(bio_in, bio_out, server_hostname="localhost")

    async def distrust() -> None:
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                await far.send_all(bio_out.read())
                bio_in.write(await far.receive_some())
            except ssl.SSLError:
                await far.send_all(bio_out.read())
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(distrust)
        with pytest.raises(ConnectionClosed, match="does not trust"):
            await handshakes.handshake(wrap(near))


async def test_a_thousand_failures_a_second_are_one_line_of_log(handshakes, caplog, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(tls_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(tls_module, "_failures", tls_module._FailureLog())
    caplog.set_level("INFO", "engine.transport.tls")
    for moment in (100.0, 100.1, 100.9, 101.1):
        clock[0] = moment
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionClosed):
            await handshakes.handshake(wrap(near))
    assert [record.getMessage() for record in caplog.records] == [
        "TLS handshake failed: the client speaks plain HTTP",
        "TLS handshake failed: the client speaks plain HTTP (and 2 more since the last line)",
    ]


async def test_a_handshake_goes_on_from_bytes_that_were_read_ahead(files, handshakes):
    near, far = trio.testing.memory_stream_pair()
    client = trio.SSLStream(far, files.client("h2"), server_hostname="localhost", https_compatible=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"ping")
        peeked = await near.receive_some(1)
        assert peeked == b"\x16"
        result = await handshakes.handshake(wrap(near), bytes(peeked))
        assert await result.stream.receive_some() == b"ping"


# -- reloads -------------------------------------------------------------------


def names(client: trio.SSLStream) -> set[str]:
    return {value for kind, value in client.getpeercert()["subjectAltName"] if kind == "DNS"}


async def test_a_reload_serves_the_new_certificate_to_new_connections(files, handshakes):
    old_result, old_client = await agree(handshakes, files.client())
    files.write("new.example")
    assert handshakes.reload() is True
    _, new_client = await agree(handshakes, files.client())
    assert "new.example" not in names(old_client)
    assert "new.example" in names(new_client)
    await old_result.stream.send_all(b"still here")  # connections keep what they agreed on
    assert await old_client.receive_some() == b"still here"


@pytest.mark.parametrize("damage", ["key of another", "no key", "no certificate", "garbage", "empty"])
async def test_a_failed_reload_keeps_serving_the_old_certificate(files, handshakes, damage, caplog):
    match damage:
        case "key of another":
            files.key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
        case "no key":
            files.key.unlink()
        case "no certificate":
            files.cert.unlink()
        case "garbage":
            files.cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        case "empty":
            files.cert.write_bytes(b"")
    assert handshakes.reload() is False
    assert "the old ones stay in use" in caplog.text
    result, _ = await agree(handshakes, files.client("h2"))
    assert result.alpn == "h2"


# -- start-up mistakes ---------------------------------------------------------


def test_a_missing_file_is_named_with_its_setting(files):
    with pytest.raises(StartupError, match=r"cannot read tls\.key_file '/nowhere/key\.pem': No such file"):
        build_context(TlsConfig(cert_file=str(files.cert), key_file="/nowhere/key.pem"))
    with pytest.raises(StartupError, match=r"cannot read tls\.cert_file '/nowhere/cert\.pem': No such file"):
        build_context(TlsConfig(cert_file="/nowhere/cert.pem", key_file=str(files.key)))


def test_a_key_of_another_certificate_is_told(files):
    files.key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    with pytest.raises(StartupError, match="is not the key of the certificate"):
        build_context(files.config)


def test_a_certificate_without_a_key_in_the_same_file_is_told(files):
    with pytest.raises(StartupError, match="does not hold a PEM certificate and its key"):
        build_context(TlsConfig(cert_file=str(files.cert)))


def test_certificate_and_key_can_be_one_file(files):
    files.cert.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    build_context(TlsConfig(cert_file=str(files.cert)))


def test_an_encrypted_key_is_refused_instead_of_asked_for_on_the_terminal(files):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(StartupError, match="is encrypted"):
        build_context(files.config)


def test_without_trustme_a_self_signed_certificate_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "trustme":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(StartupError, match=r"pip install 'engine\[tls-dev\]'"):
        build_context(TlsConfig(self_signed=True))
