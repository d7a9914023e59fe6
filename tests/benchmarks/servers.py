"""Starts a server to measure, on a core of its own, and finds out where it listens.

A server prints its port on a line of its own, or its URL, before it serves. One on a Unix socket is
told the path by `{folder}` in its command, which becomes a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PYTHON = sys.executable
BENCH_PYTHON = str(ROOT / ".venv-bench" / "bin" / "python")
SERVER_CORE, LOAD_CORE = (0, 1) if (os.cpu_count() or 1) > 1 else (0, 0)
START_LIMIT = 30.0  # seconds

_PORT = re.compile(r"(?:^(\d{2,5})$)|(?:://127\.0\.0\.1:(\d{2,5})\b)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Server:
    """A server to measure: the engine in one of its ways, or a peer."""

    name: str
    command: tuple[str, ...]
    path: str = "/"  # what a load asks for
    socket: str = ""  # its Unix socket, with `{folder}`; else it listens on 127.0.0.1
    tls: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""  # a file or folder beside its program

    @property
    def is_installed(self) -> bool:
        """Its program is there; the peers' own environments come with `bash .ci/setup bench`."""
        return all(Path(each).exists() for each in (self.command[0], self.needs) if each)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens."""

    server: Server
    address: str  # a port on 127.0.0.1, `tls:` and a port, or the path of a Unix socket
    pid: int

    def processor_time(self) -> float:
        """Seconds that it has used so far, in user and kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Bytes of memory that are its own, and its share of what it shares with others."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        kib = next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
        return int(kib) * 1024


SOCKET = "{folder}/socket"  # of a server that is told to listen on a Unix socket


def engine(name: str = "engine", path: str = "/", *options: str, unix: bool = False, tls: bool = False) -> Server:
    """The engine, serving `tests.benchmarks.engine_app` with these options of `python -m engine serve`."""
    command = (PYTHON, "-m", "engine", "serve", "tests.benchmarks.engine_app:app", *options)
    where = ("--host", f"unix:{SOCKET}") if unix else ("--port", "0")
    how = ("--tls-self-signed",) if tls else ()
    return Server(name, (*command, *where, *how), path, SOCKET if unix else "", tls=tls)


def peer(name: str, script: str, path: str = "/", *arguments: str, python: str = PYTHON) -> Server:
    """A script of `peers/`; its arguments say whether it is on a Unix socket, or speaks TLS."""
    command = (python, str(FOLDER / "peers" / f"{script}.py"), *arguments)
    return Server(name, command, path, SOCKET if SOCKET in arguments else "", tls="tls" in arguments)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start a server on its core; it is killed at the end.

    Raises:
        RuntimeError: it does not say where it listens within `START_LIMIT`.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [part.replace("{folder}", folder) for part in server.command],
            cwd=ROOT,
            env={**os.environ, **server.environment},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )
        assert process.stdout is not None
        alarm = threading.Timer(START_LIMIT, process.kill)
        alarm.start()
        try:
            printed = ""
            for line in process.stdout:
                printed += line
                match = _PORT.search(printed)
                if server.socket or match:
                    alarm.cancel()
                    # Whatever else it prints must not fill the pipe.
                    threading.Thread(target=process.stdout.read, daemon=True).start()
                    port = "" if match is None else (match[1] or match[2])
                    address = server.socket.replace("{folder}", folder) or ("tls:" if server.tls else "") + port
                    yield Running(server, address, process.pid)
                    return
            errors.seek(0)
            raise RuntimeError(f"{server.name} printed no port:\n{printed}{errors.read().decode()}")
        finally:
            alarm.cancel()
            process.kill()
            process.wait()
