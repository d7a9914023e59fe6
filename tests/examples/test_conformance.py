"""The conformance app answers its contract on plain HTTP and WebSocket, as real clients see it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from examples.conformance import app
from tests.interop.server_process import ServerProcess
from tests.wire.websocket.client_frames import CLOSE, TEXT, close_frame, frame, server_frames


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess("examples.conformance:app")
    yield process
    process.stop()


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    yield made
    made.close()


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None, **options: object):
    connection.request(method, path, body, **options)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer


def test_the_settings_differ_where_the_contract_says_so() -> None:
    assert app.config.websocket.max_message_size == 16 * 1024 * 1024
    assert app.config.http1.head_timeout == 10
    assert app.config.http2.max_concurrent_streams == 1000


def test_the_root_answers_get_and_head_alike(connection) -> None:
    status, body, got = ask(connection, "GET", "/")
    assert (status, bool(body)) == (200, True)
    status, nothing, head = ask(connection, "HEAD", "/")
    assert (status, nothing) == (200, b"")
    without_date = [[each for each in answer.getheaders() if each[0] != "date"] for answer in (got, head)]
    assert without_date[0] == without_date[1]


def test_the_root_answers_http_1_0(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while more := client.recv(65536):
            data += more
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/", "/echo"])
def test_a_posted_body_comes_back(connection, path: str) -> None:
    body = bytes(range(256)) * 1200
    assert ask(connection, "POST", path, body)[:2] == (200, body)
    pieces = [body[start : start + 10_000] for start in range(0, len(body), 10_000)]
    assert ask(connection, "POST", path, iter(pieces), encode_chunked=True)[:2] == (200, body)
    assert ask(connection, "POST", path, b"")[:2] == (200, b"")


def test_healthz_answers_with_any_query(connection) -> None:
    assert ask(connection, "GET", "/healthz?a=b&%zz")[0] == 200
    assert ask(connection, "HEAD", "/healthz")[:2] == (200, b"")


@pytest.mark.parametrize("count", [0, 1, 65_535, 65_536, 65_537, 10_000_000])
def test_so_many_bytes_are_sent(connection, count: int) -> None:
    status, body, answer = ask(connection, "GET", f"/bytes/{count}")
    assert (status, len(body)) == (200, count)
    assert answer.getheader("content-length") == str(count)


def test_leading_zeros_do_not_reach_the_framing(connection) -> None:
    status, body, answer = ask(connection, "GET", "/bytes/007")
    assert (status, len(body), answer.getheader("content-length")) == (200, 7, "7")


@pytest.mark.parametrize(
    "path", ["/nope", "/bytes/", "/bytes/x", "/bytes/-1", "/bytes/10000001", "/bytes/1/2", "/echo/"]
)
def test_any_other_path_is_404_and_the_connection_lives(connection, path: str) -> None:
    assert ask(connection, "GET", path)[0] == 404
    kept = connection.sock
    assert ask(connection, "GET", "/")[0] == 200
    assert connection.sock is kept


def test_echo_without_an_upgrade_is_426(connection) -> None:
    assert ask(connection, "GET", "/echo")[0] == 426


def test_the_echo_speaks_its_subprotocols_and_takes_16_mib_exactly(server: ServerProcess) -> None:
    url = f"{server.websocket_url}/echo"
    with connect(url, proxy=None, subprotocols=["x", "b"], max_size=None, compression=None) as client:
        assert client.subprotocol == "b"
        client.send("text")
        assert client.recv(timeout=20) == "text"
        whole = bytes(16 * 1024 * 1024)
        client.send(whole)
        assert client.recv(timeout=60) == whole


def test_one_byte_more_is_closed_with_1009(server: ServerProcess) -> None:
    with connect(f"{server.websocket_url}/echo", proxy=None, max_size=None, compression=None) as client:
        with pytest.raises(ConnectionClosed) as caught:
            _send_and_receive(client, bytes(16 * 1024 * 1024 + 1))
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


def _send_and_receive(client: ClientConnection, message: bytes) -> None:
    client.send(message)
    client.recv(timeout=60)


def test_http_2_with_prior_knowledge_serves_the_same(server: ServerProcess) -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    client.initiate_connection()
    fields = [(":scheme", "http"), (":authority", "x")]
    client.send_headers(1, [(":method", "GET"), (":path", "/bytes/100000"), *fields], end_stream=True)
    client.send_headers(3, [(":method", "GET"), (":path", "/nope"), *fields], end_stream=True)
    statuses: dict[int, str] = {}
    received, ended = 0, set[int]()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        while ended < {1, 3}:
            sock.sendall(client.data_to_send())
            for event in client.receive_data(sock.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    statuses[event.stream_id] = dict(event.headers)[":status"]
                elif isinstance(event, h2.events.DataReceived):
                    received += len(event.data) if event.stream_id == 1 else 0
                    client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
    assert statuses == {1: "200", 3: "404"}
    assert received == 100_000
    assert client.remote_settings.max_concurrent_streams == 1000


UPGRADE = b"GET /echo HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
KEY = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


def everything(server: ServerProcess, data: bytes, *, end: bool = False) -> bytes:
    """What the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(data)
        if end:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_what_follows_a_malformed_handshake_is_never_answered(server: ServerProcess) -> None:
    behind = frame(TEXT, b"hi") + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    for fields in (b"", KEY + KEY, KEY + b"sec-websocket-protocol: \xff\r\n", b"sec-websocket-key: AAAA\r\n"):
        answer = everything(server, UPGRADE + fields + b"\r\n" + behind)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1


def test_every_close_code_is_echoed_or_refused(server: ServerProcess) -> None:
    refused = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999, *refused):
        answer = everything(server, UPGRADE + KEY + b"\r\n" + close_frame(code, b"why"))
        [(opcode, payload)] = server_frames(answer.partition(b"\r\n\r\n")[2])
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") == (1002 if code in refused else code)


@pytest.mark.parametrize("end", [False, True])
def test_messages_are_answered_before_the_close_and_then_the_connection_ends(server: ServerProcess, end: bool) -> None:
    answer = everything(server, UPGRADE + KEY + b"\r\n" + frame(TEXT, b"hi") + close_frame(4000), end=end)
    assert server_frames(answer.partition(b"\r\n\r\n")[2]) == [(TEXT, b"hi"), (CLOSE, b"\x0f\xa0")]
