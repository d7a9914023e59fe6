"""The floors of the house hold: what imports what, how big a file may be, how it is named."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 600
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
GENERATED = ("_pb2.py", "_pb2_grpc.py", "_engine.py")
TOP_LEVEL = {
    "pyproject.toml", "engine", "protos", "tests", "fuzz", "examples", "README.md", "LICENSE", "CHANGELOG.md",
    "requirements.lock", "requirements-bench.lock",
}  # fmt: skip

# Only these modules may import the package; every other use goes through them.
SOLE_IMPORTERS = {
    "h11": {"engine/wire/http1.py", "engine/wire/http1_client.py"},
    "h2": {
        "engine/wire/http2.py",
        "engine/wire/http2_phases.py",
        "engine/wire/hpack_memo.py",
        "engine/wire/frame_guard.py",
    },
    "hpack": {"engine/wire/http2.py", "engine/wire/hpack_memo.py", "engine/wire/frame_guard.py"},
    "hyperframe": {"engine/wire/http2.py", "engine/wire/hpack_memo.py", "engine/wire/frame_guard.py"},
    "wsproto": {"engine/wire/websocket/core.py"},
}
# What a sans-IO module cannot need. Built-in functions that do I/O, and datetime's clock, are looked for by name below.
IMPURE = {
    "trio", "outcome", "asyncio", "anyio", "socket", "ssl", "select", "selectors", "threading", "subprocess", "signal",
    "time", "random", "secrets", "uuid", "os", "pathlib", "tempfile", "logging", "warnings",
}  # fmt: skip


def _python_files(folder: str) -> list[Path]:
    return sorted(
        path
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.endswith(GENERATED) and "node_modules" not in path.parts
    )


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imported_roots(path: Path) -> set[str]:
    """The top-level packages that a module imports at run time, wherever the import stands."""
    roots: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)} line {node.lineno}: write the import in full"
            roots.add((node.module or "").partition(".")[0])
    return roots


ENGINE = _python_files("engine")
ALL = [path for folder in ("engine", "tests", "fuzz", "examples") for path in _python_files(folder)]


def test_imports_go_down_the_floors() -> None:
    command = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_a_protocol_library_is_imported_by_its_own_modules_alone(path: Path) -> None:
    roots = _imported_roots(path)
    strangers = {root for root, allowed in SOLE_IMPORTERS.items() if root in roots and _name(path) not in allowed}
    assert not strangers, f"{_name(path)} imports {strangers}; go through {[SOLE_IMPORTERS[s] for s in strangers]}"


@pytest.mark.parametrize("path", _python_files("engine/wire"), ids=_name)
def test_a_wire_module_does_no_io_and_has_no_clock(path: Path) -> None:
    assert not _imported_roots(path) & IMPURE
    tree = ast.parse(path.read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "breakpoint"}
    asked = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not asked & {"now", "utcnow", "today"}, "the caller passes the time"
    waits = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    assert not waits, "a sans-IO module has nothing to wait for"


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_a_file_stays_within_its_budget(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines; split it by what it owns"


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_a_module_is_named_for_what_it_owns(path: Path) -> None:
    assert path.stem not in VAGUE_NAMES
    assert path.parent.name not in VAGUE_NAMES


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_a_module_says_what_it_owns(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "start the module with what it owns and what it never does"


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_all_names_what_exists_and_is_sorted(path: Path) -> None:
    tree = ast.parse(path.read_text())
    defined: set[str] = set()
    exported: list[str] | None = None
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                exported = list(ast.literal_eval(value))
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                defined.update(alias.asname or alias.name for alias in names)
            case ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
    if exported is not None:
        assert set(exported) <= defined
        assert len(set(exported)) == len(exported)


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {path.parent for path in ENGINE}
    assert not [_name(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_the_public_modules_list_their_names() -> None:
    for name in ("engine/__init__.py", "engine/errors.py", "engine/config.py"):
        assert re.search(r"^__all__ = ", (ROOT / name).read_text(), re.MULTILINE), f"{name} has no __all__"


def test_the_top_level_holds_only_what_belongs_there() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git work tree")
    top = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
