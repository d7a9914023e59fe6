"""Owns a server in a process of its own: `python -m engine serve TARGET --port 0`.

The port is read from what the server prints. At the end it is asked to stop with SIGTERM, and must
have exited with 0 and printed no traceback.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
START_LIMIT = 30.0  # seconds; a cold start on a loaded machine imports for several
STOP_LIMIT = 20.0  # seconds; the engine's graceful_timeout is 10

_URL = re.compile(r"\b(https?)://(?:127\.0\.0\.1|localhost|\[::1\]):(\d+)")


class ServerProcess:
    """A running server; `url` for cleartext, `tls_url` where it was started with TLS.

    Args:
        arguments: of `serve`: a target, and options.
        cwd: where it runs, for targets that lie elsewhere.
        tls: wait for the `https` address too.
        errors_expected: the app raises on purpose, so tracebacks in the log are right.

    Raises:
        AssertionError: it did not start, or ended badly.
    """

    def __init__(self, *arguments: str, cwd: Path = ROOT, tls: bool = False, errors_expected: bool = False) -> None:
        self._errors_expected = errors_expected
        command = [sys.executable, "-m", "engine", "serve", *arguments, "--port", "0"]
        self._lines: list[str] = []
        self._printed = threading.Condition()
        self.process = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        self.port = self._wait_for_port("http")
        self.tls_port = self._wait_for_port("https") if tls else None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        with self._printed:
            return "".join(self._lines)

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._printed:
                self._lines.append(line)
                self._printed.notify_all()
        with self._printed:
            self._printed.notify_all()

    def _wait_for_port(self, scheme: str) -> int:
        give_up = time.monotonic() + START_LIMIT
        with self._printed:
            while True:
                for found, port in _URL.findall("".join(self._lines)):
                    if found == scheme:
                        return int(port)
                if self.process.poll() is not None or time.monotonic() > give_up:
                    self.process.kill()
                    self.process.wait()
                    raise AssertionError(f"the server printed no {scheme} address:\n{''.join(self._lines)}")
                self._printed.wait(0.1)

    def stop(self) -> None:
        """Ask it to stop and check how it ended."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = None
        for reader in self._readers:
            reader.join(5)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        assert code == 0, f"the server exited with {code} (None: not within {STOP_LIMIT} s):\n{self.output}"
        if not self._errors_expected:
            assert "Traceback (most recent call last)" not in self.output, self.output
