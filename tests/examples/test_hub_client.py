"""The example of a hub client does what it says, against its own hub."""

from __future__ import annotations

import subprocess
import sys

from tests.interop.server_process import ROOT


def test_the_client_streams_calls_and_is_called(start_engine):
    server = start_engine("examples.hub_client:app")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.hub_client", f"{server.url}/tickerhub"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == ["ABC 100.00", "ABC 100.25", "ABC 100.50", "400"]
    assert sorted(lines[4:]) == ["bought ABC", "somebody bought ABC"]
