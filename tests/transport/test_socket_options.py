"""The options of TCP sockets, read back from the kernel."""

from __future__ import annotations

import socket
import sys

import pytest

from engine.transport.socket_options import tune


def connected(host: str) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        near = socket.create_connection(listener.getsockname()[:2])
        return near, listener.accept()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the options of Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_on_loopback_nothing_is_delayed_paced_or_queued_out_of_sight(host: str) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    near, far = connected(host)
    with near, far:
        tune(far)
        assert far.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert far.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024
        assert far.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"


def test_a_unix_socket_is_left_alone() -> None:
    near, far = socket.socketpair()
    with near, far:
        tune(near)


def test_a_connection_that_is_gone_is_an_error_of_the_socket() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match="not connected"):
        tune(sock)
