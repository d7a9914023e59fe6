"""The TypeScript compiler judges the declarations that `hub describe --typescript` generates."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.commands import cli
from tests.interop.peers import NODE_FOLDER, require

pytestmark = pytest.mark.interop

SOURCES = NODE_FOLDER / "typescript"
OPTIONS = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--noUncheckedIndexedAccess"]


def compile_with(folder: Path, program: str) -> list[str]:
    """The errors of the compiler, for a program beside the generated declarations."""
    compiler = NODE_FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        pytest.skip("the Node.js packages are missing; run npm ci in tests/interop/node")
    result = CliRunner().invoke(cli, ["hub", "describe", "tests.interop.typed_hubs:app", "--typescript"])
    assert result.exit_code == 0, result.output
    (folder / "hubs.ts").write_text(result.output)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").symlink_to((NODE_FOLDER / "node_modules").resolve())
    (folder / program).write_text((SOURCES / program).read_text())
    done = subprocess.run(
        [require("node", "nodejs"), str(compiler), *OPTIONS, program],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_a_program_that_uses_them_rightly_compiles(tmp_path):
    assert compile_with(tmp_path, "good.ts") == []


def test_each_mistake_is_found_and_nothing_else(tmp_path):
    errors = compile_with(tmp_path, "bad.ts")
    found = {int(match[1]) for each in errors if (match := re.match(r"bad\.ts\((\d+),", each))}
    lines = (SOURCES / "bad.ts").read_text().splitlines()
    assert found == {number for number, line in enumerate(lines, 1) if "// error" in line}, "\n".join(errors)
    assert not [each for each in errors if each.startswith("hubs.ts")]
