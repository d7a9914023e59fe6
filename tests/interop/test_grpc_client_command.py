"""The conformance client as a program, against servers that are scripted frame by frame."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from examples.conformance import grpc_client
from tests.interop.server_process import ROOT, ServerProcess
from tests.wire.http2_peer import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    data,
    frame,
    headers,
    reset,
    settings,
    window,
)

pytestmark = pytest.mark.interop

HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK = ((b"grpc-status", b"0"),)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def reply(size: int) -> bytes:
    """A framed SimpleResponse, or StreamingOutputCallResponse, with a payload of `size` zeros."""
    payload = b"\x12" + varint(size) + bytes(size)
    message = b"\x0a" + varint(len(payload)) + payload
    return b"\0" + len(message).to_bytes(4, "big") + message


class Peer:
    """The server's end of one connection. It gives credit for all that it reads, and keeps to the client's."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.requests: list[int] = []  # complete, in order
        self.open = 0  # requests that have begun and were not answered
        self.most = 0
        self.pings = 0  # acknowledged
        self._buffer = b""
        self._window = 65_535
        self._windows: dict[int, int] = {}
        self._initial = 65_535

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def begin(self, *entries: tuple[int, int]) -> None:
        while len(self._buffer) < len(PREFACE):
            self._buffer += self.sock.recv(65_536)
        self._buffer = self._buffer[len(PREFACE) :]
        self.send(settings(*entries))

    def step(self) -> bool:
        """Take one frame; False at the end."""
        while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
            received = self.sock.recv(65_536)
            if not received:
                return False
            self._buffer += received
        size, (kind, flags) = int.from_bytes(self._buffer[:3], "big"), self._buffer[3:5]
        stream_id, payload = int.from_bytes(self._buffer[5:9], "big"), self._buffer[9 : 9 + size]
        self._buffer = self._buffer[9 + size :]
        if kind == SETTINGS and not flags & 1:
            found = dict(struct.unpack_from(">HL", payload, at) for at in range(0, size, 6))
            self._initial = found.get(4, self._initial)
            self.send(settings(ack=True))
        elif kind == WINDOW:
            increment = int.from_bytes(payload, "big")
            if stream_id:
                self._windows[stream_id] = self._windows.get(stream_id, self._initial) + increment
            else:
                self._window += increment
        elif kind == PING and flags & 1:
            self.pings += 1
        elif kind == HEADERS:
            self.open += 1
            self.most = max(self.most, self.open)
        elif kind == DATA:
            if size:
                self.send(window(0, size), window(stream_id, size))
            if flags & 1:
                self.requests.append(stream_id)
        return True

    def request(self) -> int:
        while not self.requests:
            assert self.step(), "the client has closed the connection"
        return self.requests.pop(0)

    def body(self, stream_id: int, content: bytes, *, size: int = 16_384, padding: int | None = None) -> None:
        for at in range(0, len(content), size):
            piece = content[at : at + size]
            cost = len(piece) + (0 if padding is None else padding + 1)
            while min(self._window, self._windows.get(stream_id, self._initial)) < cost:
                assert self.step(), "the client has closed the connection"
            self._window -= cost
            self._windows[stream_id] = self._windows.get(stream_id, self._initial) - cost
            if padding is None:
                self.send(data(stream_id, piece))
            else:
                self.send(frame(DATA, 8, stream_id, bytes([padding]) + piece + bytes(padding)))

    def answer(self, stream_id: int, *, size: int = 16_384, padding: int | None = None) -> None:
        """What large_unary wants, in DATA frames of so many bytes."""
        self.send(headers(stream_id, HEAD, end=False))
        self.body(stream_id, reply(314_159), size=size, padding=padding)
        self.open -= 1
        self.send(headers(stream_id, OK))

    def until_closed(self) -> None:
        while self.step():
            pass


Script = Callable[[Peer], None]


@contextmanager
def serving(script: Script) -> Iterator[tuple[int, list[Peer]]]:
    """A port where every connection is one run of the script."""
    peers: list[Peer] = []

    def serve(sock: socket.socket) -> None:
        with sock:
            peers.append(Peer(sock))
            try:
                script(peers[-1])
            except OSError:  # the client has seen enough
                return

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # closed
                return
            sock.settimeout(30)
            thread = threading.Thread(target=serve, args=(sock,), daemon=True)
            threads.append(thread)
            thread.start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()[1], peers
        listener.shutdown(socket.SHUT_RDWR)
    acceptor.join()
    for thread in threads:
        thread.join()


class Client:
    """The program, in this process: it starts in no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, port: int, case: str, timeout: float = 20) -> tuple[int, str, str]:
        flags = ["--server_host=127.0.0.1", f"--server_port={port}", f"--test_case={case}", f"--timeout={timeout}"]
        self._monkeypatch.setattr(sys, "argv", ["grpc_client", *flags])
        returned = grpc_client.main()
        return (returned, *self._capsys.readouterr())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Client:
    return Client(monkeypatch, capsys)


# -- the official HTTP/2 cases --------------------------------------------------------


def goaway(peer: Peer) -> None:
    peer.begin()
    stream_id = peer.request()
    peer.answer(stream_id)
    peer.send(frame(GOAWAY, 0, 0, stream_id.to_bytes(4, "big") + bytes(4)))
    peer.until_closed()
    assert peer.requests == []


def rst_after_header(peer: Peer) -> None:
    peer.begin()
    stream_id = peer.request()
    peer.send(headers(stream_id, HEAD, end=False), reset(stream_id, 0))
    peer.until_closed()


def rst_during_data(peer: Peer) -> None:
    peer.begin()
    stream_id = peer.request()
    peer.send(headers(stream_id, HEAD, end=False))
    peer.body(stream_id, reply(314_159)[:1000])
    peer.send(reset(stream_id, 0))
    peer.until_closed()


def rst_after_data(peer: Peer) -> None:
    peer.begin()
    stream_id = peer.request()
    peer.send(headers(stream_id, HEAD, end=False))
    peer.body(stream_id, reply(314_159))
    peer.send(reset(stream_id, 0))
    peer.until_closed()


def ping(peer: Peer) -> None:
    peer.begin()
    peer.send(frame(PING, 0, 0, b"12345678"))
    stream_id = peer.request()
    peer.send(frame(PING, 0, 0, b"12345678"))
    peer.answer(stream_id)
    while peer.pings < 2:
        assert peer.step()
    peer.until_closed()


def max_streams(peer: Peer) -> None:
    peer.begin((3, 1))
    while peer.requests or peer.step():
        if peer.requests:
            peer.answer(peer.requests.pop(0))


def data_frame_padding(peer: Peer) -> None:
    peer.begin()
    peer.answer(peer.request(), size=5, padding=255)
    peer.until_closed()


def no_df_padding_sanity_test(peer: Peer) -> None:
    peer.begin()
    peer.answer(peer.request(), size=5)
    peer.until_closed()


@pytest.mark.parametrize(
    ("script", "connections"),
    [
        (goaway, 2),
        (rst_after_header, 1),
        (rst_during_data, 1),
        (rst_after_data, 1),
        (ping, 1),
        (max_streams, 1),
        (data_frame_padding, 1),
        (no_df_padding_sanity_test, 1),
    ],
)
def test_an_official_http2_case_succeeds(client: Client, script: Script, connections: int) -> None:
    with serving(script) as (port, peers):
        assert client.run(port, script.__name__) == (0, "", "")
    assert len(peers) == connections
    if script is ping:
        assert peers[0].pings == 2
    if script is max_streams:
        assert peers[0].most == 1


# -- probes: exactly one line, whatever the server does ---------------------------------

TEN = reply(10)


def answering(*frames: Callable[[int], bytes], close: bool = False) -> Script:
    """Every request gets these frames."""

    def script(peer: Peer) -> None:
        peer.begin()
        while peer.requests or peer.step():
            if peer.requests:
                stream_id = peer.requests.pop(0)
                peer.send(*(make(stream_id) for make in frames))
                if close:
                    return

    return script


def head(*more: tuple[bytes, bytes], status: bytes = b"200") -> Callable[[int], bytes]:
    return lambda stream_id: headers(stream_id, ((b":status", status), HEAD[1], *more), end=False)


def body(content: bytes) -> Callable[[int], bytes]:
    return lambda stream_id: data(stream_id, content)


def end(*fields: tuple[bytes, bytes]) -> Callable[[int], bytes]:
    return lambda stream_id: headers(stream_id, fields)


def rst(code: int) -> Callable[[int], bytes]:
    return lambda stream_id: reset(stream_id, code)


def go_away(last: Callable[[int], int]) -> Callable[[int], bytes]:
    return lambda stream_id: frame(GOAWAY, 0, 0, last(stream_id).to_bytes(4, "big") + bytes(4))


def hang_up(peer: Peer) -> None:
    """Not a byte."""


def speak_http1(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    peer.until_closed()


def say_nothing(peer: Peer) -> None:
    peer.sock.recv(65_536)
    while peer.sock.recv(65_536):
        pass


WAYS: dict[str, tuple[Script, str, list[int]]] = {
    "ok": (answering(head(), body(TEN), end(*OK)), "OK", [10]),
    "a failure in the head": (answering(end(*HEAD, (b"grpc-status", b"9"))), "FAILED_PRECONDITION", []),
    "a failure after a message": (answering(head(), body(TEN), end((b"grpc-status", b"15"))), "DATA_LOSS", [10]),
    "no trailers": (answering(head(), lambda sid: data(sid, TEN, end=True)), "UNKNOWN", [10]),
    "a status that is no number": (answering(head(), body(TEN), end((b"grpc-status", b"x"))), "UNKNOWN", [10]),
    "HTTP 503": (answering(head(status=b"503"), end((b"x", b"y"))), "UNAVAILABLE", []),
    "no gRPC": (answering(lambda sid: headers(sid, ((b":status", b"200"),), end=False)), "UNKNOWN", []),
    "half a message": (answering(head(), body(TEN[:-1]), end(*OK)), "INTERNAL", []),
    "a message too large": (answering(head(), body(b"\0\0\x40\0\x01")), "RESOURCE_EXHAUSTED", []),
    "a broken message": (answering(head(), body(b"\0\0\0\0\x01\xff"), end(*OK)), "INTERNAL", []),
    "RST CANCEL": (answering(head(), body(TEN), rst(8)), "CANCELLED", [10]),
    "RST REFUSED_STREAM": (answering(rst(7)), "UNAVAILABLE", []),
    "RST ENHANCE_YOUR_CALM": (answering(rst(11)), "RESOURCE_EXHAUSTED", []),
    "RST NO_ERROR": (answering(rst(0)), "INTERNAL", []),
    "GOAWAY below": (answering(go_away(lambda sid: 0)), "UNAVAILABLE", []),
    "GOAWAY, then served": (answering(go_away(lambda sid: sid), head(), body(TEN), end(*OK)), "OK", [10]),
    "closed after a message": (answering(head(), body(TEN), close=True), "UNAVAILABLE", [10]),
    "garbage": (answering(lambda sid: b"\xde\xad\xbe\xef" * 20), "UNAVAILABLE", []),
    "silence after a message": (answering(head(), body(TEN)), "DEADLINE_EXCEEDED", [10]),
    "HTTP/1.1": (speak_http1, "UNAVAILABLE", []),
    "hang up": (hang_up, "UNAVAILABLE", []),
    "silence": (say_nothing, "DEADLINE_EXCEEDED", []),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_probe_prints_one_line_of_json(client: Client, way: str) -> None:
    script, code, sizes = WAYS[way]
    with serving(script) as (port, _):
        for case in ("probe_unary", "probe_stream"):
            returned, out, err = client.run(port, case, timeout=0.5)
            assert (returned, out.count("\n"), err) == (0, 1, "")
            found = json.loads(out)
            assert found.pop("code") == code
            assert isinstance(found.pop("details"), str)
            if case == "probe_stream":
                assert found == {"sizes": sizes}
            else:
                assert set(found) == {"size", "initial", "trailing"}
                assert found["size"] == (10 if code == "OK" else 0)


def test_the_program_prints_it_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "examples.conformance.grpc_client", "--server_host=127.0.0.1"]
    command += [f"--server_port={port}", "--test_case=probe_unary", "--timeout=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["code"], done.stderr) == (0, "UNAVAILABLE", "")


def test_it_calls_over_tls_and_checks_the_certificate(
    start_engine: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("foo.test").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    server = start_engine("examples.conformance:app", "--tls-cert", str(tmp_path / "server.pem"), tls=True)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "examples.conformance.grpc_client", "--server_port", str(server.port))
        arguments = ("--test_case", "large_unary", "--use_tls", "true", "--ca_file", str(tmp_path / "ca.pem"))
        return subprocess.run(
            [*command, *arguments, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
        )

    trusted = run("--server_host_override", "foo.test")
    assert (trusted.returncode, trusted.stderr) == (0, "")
    distrusted = run()
    assert distrusted.returncode == 1
    assert "certificate is not trusted" in distrusted.stderr
