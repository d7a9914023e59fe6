"""Owns how real peers are run: programs of this machine, scripts under Node.js, and what `.ci/setup` compiles.

A peer that is missing skips the test with a reason that names what to install.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop.server_process import ROOT

NODE_FOLDER = Path(__file__).parent / "node"
DEFAULT_LIMIT = 60.0  # seconds for one run of a peer


def require(program: str, package: str) -> str:
    """The path of a program, or a skip that names its package."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing; install the system package {package}")
    return path


def run(*command: str, limit: float = DEFAULT_LIMIT, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a peer to its end; it must exit with 0."""
    done = subprocess.run(command, capture_output=True, input=stdin, timeout=limit, check=False)
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
    return done


def curl(*arguments: str, limit: float = DEFAULT_LIMIT, stdin: bytes = b"") -> bytes:
    """What curl writes to its standard output."""
    program = require("curl", "curl")
    return run(program, "--silent", "--show-error", "--max-time", "50", *arguments, limit=limit, stdin=stdin).stdout


def node(script: str, *arguments: str, limit: float = DEFAULT_LIMIT) -> Any:
    """Run `tests/interop/node/SCRIPT`; its standard output is one JSON value."""
    program = require("node", "nodejs")
    if not (NODE_FOLDER / "node_modules").is_dir():
        pytest.skip("the Node.js packages are missing; run npm ci in tests/interop/node")
    return json.loads(run(program, str(NODE_FOLDER / script), *arguments, limit=limit).stdout)


def grpc_go() -> str:
    """The program of `tests/interop/go`, or a skip that says how to get it."""
    program = ROOT / ".peers" / "grpc_go" / "interop"
    if not program.exists():
        pytest.skip("the peer in Go is missing; run bash .ci/setup test, which says what it needs")
    return str(program)


def chromium(script: str, *arguments: str, limit: float = DEFAULT_LIMIT) -> Any:
    """Run a script that drives headless Chromium; it gets the browser's path as its first argument."""
    return node(script, require("chromium", "chromium"), *arguments, limit=limit)
