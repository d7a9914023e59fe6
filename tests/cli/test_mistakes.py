"""Every mistake at the command line is one line that says what to do, and an exit code; never a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.interop.server_process import ROOT

APP = "from engine import App\napp = App()\n"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m engine` as an installed package, from the user's own folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def refused(folder: Path, code: int, *arguments: str) -> str:
    """Run a command that must fail, and return its one line."""
    result = run(folder, *arguments)
    assert result.returncode == code, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("engine: error: ")
    return line


# -- exit code 2: what was typed ---------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--prot", "80"], ["--prot", "--port", "serve --help"]),
        (["serve", "a:b", "c:d"], ["serve --help"]),
        (["sreve"], ["sreve", "--help"]),
        (["serve", "--port"], ["--port", "argument", "--help"]),
        (["serve", "--port", "eighty"], ["--port = 'eighty'", "whole number"]),
        (["serve", "--port", "1.5"], ["--port = '1.5'", "whole number"]),
        (["serve", "--port", "70000"], ["server.port = 70000", "0 to 65535"]),
        (["serve", "--graceful-timeout", "soon"], ["--graceful-timeout = 'soon'", "250ms"]),
        (["serve", "--graceful-timeout", "-1"], ["server.graceful_timeout", "0 or more"]),
        (["serve", "--max-connections", "0"], ["server.max_connections", "more than 0"]),
        (["serve", "--log-level", "loud"], ["--log-level", "debug"]),
        (["serve", "--log-format", "xml"], ["--log-format", "json"]),
        (["serve", "--set", "websocket.max_mesage_size=1"], ["did you mean websocket.max_message_size?"]),
        (["serve", "--set", "zzz=1"], ["zzz", "there is no such setting"]),
        (["serve", "--set", "server.port"], ["--set", "KEY=VALUE"]),
        (["serve", "--set", "detailed_errors=perhaps"], ["detailed_errors", "true or false"]),
        (["serve", "--set", "http2.resets=many"], ["http2.resets", "BURST+PER_SECOND"]),
        (["serve", "--tls-key", "key.pem"], ["tls.cert_file", "tls.self_signed"]),
        (["serve", "--tls-port", "0"], ["tls.cert_file"]),
        (["serve", "--tls-self-signed", "--tls-cert", "c.pem"], ["tls.self_signed", "one or the other"]),
        (["serve", "myapp"], ["TARGET = 'myapp'", "myapp:app"]),
        (["serve", "myapp.py"], ["myapp:app"]),
        (["serve", "./folder/myapp.py"], ["folder.myapp:app"]),
        (["serve", "myapp:"], ["myapp:app"]),
        (["serve", ":app"], ["myapp:app"]),
        (["serve", "my-app:app"], ["module:attribute"]),
        (["routes", "a:b:c"], ["module:attribute"]),
        (["proto", "generate", "nothing.proto"], ["nothing.proto"]),
    ],
)
def test_what_was_typed_wrongly_exits_with_2(tmp_path, arguments, told):
    line = refused(tmp_path, 2, *arguments)
    for text in told:
        assert text in line


def test_no_command_shows_the_help(tmp_path):
    result = run(tmp_path)
    assert result.returncode == 2
    assert "serve" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_an_apps_colliding_routes_exit_with_2_and_name_both(tmp_path):
    (tmp_path / "myapp.py").write_text(
        f"{APP}\n@app.route('/x')\nasync def one(request): ...\n@app.route('/x')\nasync def two(request): ...\n"
    )
    line = refused(tmp_path, 2, "serve", "myapp:app", "--port", "0")
    assert "two" in line
    assert "one" in line


# -- exit code 3: what could not be started -----------------------------------------


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nowhere:app", ["no module nowhere", "nowhere.py"]),
        ("mayapp:app", ["did you mean myapp?"]),
        ("nowhere.deep:app", ["no module nowhere"]),
        ("myapp:ap", ["has no 'ap'", "myapp:app"]),
        ("empty:app", ["has no 'app'", "engine.App()"]),
        ("myapp:number", ["is not an engine.App but a value of type int", "myapp:app"]),
        ("broken:app", ["importing broken failed with ZeroDivisionError: division by zero", "broken.py, line 2"]),
        ("syntax:app", ["importing syntax failed with SyntaxError", "syntax.py, line 1"]),
        ("needs:app", ["it needs no_such_package", "needs.py, line 1"]),
        ("leaves:app", ["importing leaves failed with SystemExit"]),
    ],
)
def test_a_target_that_cannot_be_imported_exits_with_3(tmp_path, target, told):
    files = {
        "myapp": f"{APP}number = 1\n",
        "empty": "",
        "broken": "x = 0\n1 / x\n",
        "syntax": "def (:\n",
        "needs": "import no_such_package\n",
        "leaves": "import sys\nsys.exit(5)\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    line = refused(tmp_path, 3, "serve", target, "--port", "0")
    for text in told:
        assert text in line


def test_a_busy_port_exits_with_3(tmp_path):
    (tmp_path / "myapp.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused(tmp_path, 3, "serve", "myapp:app", "--port", str(port))
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("host", "told"), [("no.such.host.invalid", "--host"), ("192.0.2.1", "--host"), ("999.1.1.1", "--host")]
)
def test_an_address_that_is_not_ours_exits_with_3(tmp_path, host, told):
    (tmp_path / "myapp.py").write_text(APP)
    assert told in refused(tmp_path, 3, "serve", "myapp:app", "--host", host, "--port", "0")


def test_tls_files_that_cannot_be_used_exit_with_3(tmp_path):
    (tmp_path / "myapp.py").write_text(APP)
    issued = trustme.CA().issue_cert("localhost")
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "other.pem").write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    (tmp_path / "text.pem").write_text("not a certificate\n")
    serve = ["serve", "myapp:app", "--port", "0", "--tls-cert"]
    assert "cannot read tls.cert_file 'no.pem': No such file" in refused(tmp_path, 3, *serve, "no.pem")
    assert "PEM certificate" in refused(tmp_path, 3, *serve, "text.pem")
    assert "is not the key" in refused(tmp_path, 3, *serve, "cert.pem", "--tls-key", "other.pem")


def test_a_lifespan_that_fails_exits_with_3(tmp_path):
    (tmp_path / "myapp.py").write_text(
        "from contextlib import asynccontextmanager\nfrom engine import App\n"
        "@asynccontextmanager\nasync def lifespan(app):\n    raise OSError('no database')\n    yield\n"
        "app = App(lifespan=lifespan)\n"
    )
    line = refused(tmp_path, 3, "serve", "myapp:app", "--port", "0")
    assert "lifespan" in line
    assert "no database" in line
