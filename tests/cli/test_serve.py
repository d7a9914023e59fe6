"""`serve`, `routes`, `proto` and `--version` as processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.server_process import ROOT

SLOW_APP = """
import trio
from engine import App, Response

app = App()

@app.route("/")
async def index(request):
    return Response("mine")

@app.route("/slow")
async def slow(request):
    print("slow begins", flush=True)
    await trio.sleep_forever()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def engine(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def serving(*arguments: str, cwd: Path = ROOT) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running server and its first line."""
    command = [sys.executable, "-m", "engine", "serve", *arguments]
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def port_of(line: str) -> int:
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert found is not None, line
    return int(found[1])


def printed(process: subprocess.Popen[str]) -> str:
    """What is printed behind the first line, as soon as it is complete."""
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while "Ctrl-C" not in lines[-1]:
        lines.append(process.stdout.readline())
    return "".join(lines)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def test_the_version_is_printed():
    result = engine("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"engine, version \d+\.\d+\.\d+\n", result.stdout)


def test_the_demo_is_served_without_an_argument_and_its_routes_are_printed():
    with serving("--port", "0") as (process, line):
        assert b"<title>engine" in get(f"http://127.0.0.1:{port_of(line)}/")
        output = printed(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
    for kind in ("http", "websocket", "grpc", "hub"):
        assert re.search(rf"^  {kind} ", output, re.MULTILINE)


def test_the_printed_commands_work_as_they_are():
    with serving("--port", "0") as (process, _):
        commands = dict(re.findall(r"^  (grpc|hub) +(.*?)(?:  \(and|$)", printed(process), re.MULTILINE))
        answers = {
            kind: engine(*shlex.split(command.removeprefix("python -m engine "))) for kind, command in commands.items()
        }
    assert (answers["grpc"].stdout, answers["grpc"].stderr) == ('{"message": "Hello World"}\n', "")
    assert (answers["hub"].stdout, answers["hub"].stderr) == ("null\n", "")


def test_an_app_is_served_from_the_current_folder_with_its_settings_overridden(tmp_path):
    (tmp_path / "myapp.py").write_text(SLOW_APP)
    with serving("myapp:app", "--port", "0", "--set", "http1.max_target_size=200", cwd=tmp_path) as (process, line):
        assert "myapp:app" in line
        base = f"http://127.0.0.1:{port_of(line)}"
        assert get(base) == b"mine"
        with pytest.raises(urllib.error.HTTPError, match="414"):
            get(f"{base}/{'x' * 300}")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_tls_on_the_same_port_and_on_its_own_are_both_printed():
    with serving("--port", "0", "--tls-self-signed") as (process, line):
        assert process.stdout is not None
        assert f"https://127.0.0.1:{port_of(line)}\n" in process.stdout.readline()
    with serving("--port", "0", "--tls-self-signed", "--tls-port", "0") as (process, line):
        assert process.stdout is not None
        found = re.search(r"https://127\.0\.0\.1:(\d+)$", process.stdout.readline())
        assert found is not None
        assert int(found[1]) not in (0, port_of(line))


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(tmp_path, first):
    (tmp_path / "myapp.py").write_text(SLOW_APP)
    with serving("myapp:app", "--port", "0", "--graceful-timeout", "1h", cwd=tmp_path) as (process, line):
        assert process.stdout is not None
        assert process.stderr is not None
        with socket.create_connection(("127.0.0.1", port_of(line)), timeout=10) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            while "slow begins" not in process.stdout.readline():
                pass
            process.send_signal(first)
            while "draining" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors


def test_the_log_can_be_json_and_hold_a_line_a_request(tmp_path):
    (tmp_path / "myapp.py").write_text(SLOW_APP)
    with serving("myapp:app", "--port", "0", "--log-format", "json", "--access-log", cwd=tmp_path) as (process, line):
        assert process.stderr is not None
        get(f"http://127.0.0.1:{port_of(line)}/?access_token=secret")
        entry = process.stderr.readline()
    assert '"path": "/"' in entry
    assert '"status": 200' in entry
    assert "secret" not in entry


def test_routes_lists_what_would_be_served(tmp_path):
    (tmp_path / "myapp.py").write_text(SLOW_APP)
    result = engine("routes", "myapp:app", cwd=tmp_path)
    assert result.returncode == 0
    rows = [re.split(r" {2,}", row.strip()) for row in result.stdout.splitlines()]
    assert rows == [
        ["KIND", "METHODS", "PATH", "HANDLER"],
        ["http", "GET", "/", "index"],
        ["http", "GET", "/slow", "slow"],
    ]


def test_proto_generate_writes_messages_and_services(tmp_path):
    (tmp_path / "tiny.proto").write_text(
        'syntax = "proto3";\npackage tiny;\nmessage Ping { string text = 1; }\n'
        "service Pinger { rpc Do(Ping) returns (Ping); }\n"
    )
    result = engine("proto", "generate", "tiny.proto", "--out", "made", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "made").glob("*.py*")) == [
        "tiny_engine.py",
        "tiny_pb2.py",
        "tiny_pb2.pyi",
    ]
    assert "tiny_engine.py" in result.stdout
