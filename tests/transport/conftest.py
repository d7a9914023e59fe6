"""What the tests of TLS share."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import ServerConfig
from engine.transport.tls import TlsHandshakes
from tests.transport.certificates import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def handshakes(files: Files) -> TlsHandshakes:
    return TlsHandshakes(files.config, ServerConfig())
