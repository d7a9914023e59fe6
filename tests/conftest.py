"""Fixtures that tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.interop import peers
from tests.interop.server_process import ServerProcess

# How long an example takes says something of the machine, not of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="module")
def engine_server() -> Iterator[ServerProcess]:
    """The demo app in a process of its own, one for all tests of a module."""
    server = ServerProcess()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def engine_tls_server() -> Iterator[ServerProcess]:
    """The demo app with a throw-away certificate."""
    server = ServerProcess("--tls-self-signed", tls=True)
    yield server
    server.stop()


@pytest.fixture
def start_engine() -> Iterator[Callable[..., ServerProcess]]:
    """Start servers with options of the test's own: `start_engine("myapp:app", "--host", "127.0.0.1")`."""
    with ExitStack() as servers:

        def start(*arguments: str, **options: Any) -> ServerProcess:
            server = ServerProcess(*arguments, **options)
            servers.callback(server.stop)
            return server

        yield start


@pytest.fixture
def node() -> Callable[..., Any]:
    """Run a script of tests/interop/node and get the JSON it prints: `node("signalr_chat.mjs", url)`."""
    return peers.node


@pytest.fixture
def chromium() -> Callable[..., Any]:
    """The same for a script that drives headless Chromium; the browser's path is its first argument."""
    return peers.chromium
