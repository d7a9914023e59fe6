"""Autobahn's cases against the echo of the conformance app; `kosoku` drives them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.server_process import ServerProcess

pytest.importorskip("kosoku", reason="install the package kosoku")

pytestmark = pytest.mark.interop

RUN = "import kosoku._cli as cli; cli.main()"

# What the peer may do as it likes, and the suite only writes down.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


def judge(start_engine, folder: Path, *patterns: str, limit: float = 60.0) -> set[str]:
    """Run cases; all must be right. A process of its own: the case files bring Python 2's warnings with them."""
    server: ServerProcess = start_engine("examples.conformance:app")
    selection = [part for pattern in patterns for part in ("--include", pattern)]
    command = [sys.executable, "-W", "ignore", "-c", RUN, "--parallelism", "2", "--outdir", str(folder), *selection]
    done = subprocess.run([*command, f"{server.websocket_url}/echo"], capture_output=True, timeout=limit, check=False)
    [cases] = json.loads((folder / "index.json").read_text()).values()
    wrong = {
        name: (case["behavior"], case["behaviorClose"])
        for name, case in cases.items()
        if {case["behavior"], case["behaviorClose"]} - ({"OK", "INFORMATIONAL"} if name in INFORMATIONAL else {"OK"})
    }
    assert not wrong, done.stderr
    assert done.returncode == 0, done.stderr
    return set(cases)


def test_framing_fragments_utf_8_and_closing_are_right(start_engine, tmp_path: Path) -> None:
    found = judge(start_engine, tmp_path, "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
    assert len(found) == 247


def test_compression_is_right_with_each_way_to_negotiate_it(start_engine, tmp_path: Path) -> None:
    found = judge(start_engine, tmp_path, "12.1.1", "12.1.3", "12.2.7", "12.5.5", *(f"13.{n}.3" for n in range(1, 8)))
    assert len(found) == 11


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_case_is_right(start_engine, tmp_path: Path) -> None:
    found = judge(start_engine, tmp_path, limit=850)
    assert {case.split(".")[0] for case in found} == {"1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13"}
    assert len(found) == 517
