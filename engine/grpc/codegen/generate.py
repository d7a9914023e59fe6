"""Runs protoc and `protoc-gen-engine` together: `.proto` files to everything that a service needs.

Owns: the run of the compiler (from `grpcio-tools`, the extra `codegen`), the imports of its output, and the
list of what this project keeps generated in its tree.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from engine.errors import ConfigError, StartupError
from engine.grpc.codegen.emit import module_path, relative_package
from engine.grpc.codegen.plugin import respond


class CheckedIn(NamedTuple):
    """Generated code that is kept in the tree."""

    names: tuple[str, ...]  # .proto files, relative to `include`
    out: str  # relative to the project's root, as `include` is
    include: str = "protos"
    private_pool: bool = False
    stock: bool = False


CHECKED_IN: tuple[CheckedIn, ...] = (
    CheckedIn(("greet.proto",), "engine/demo/generated"),
    CheckedIn(
        (
            "grpc/health/v1/health.proto",
            "grpc/reflection/v1/reflection.proto",
            "grpc/reflection/v1alpha/reflection.proto",
            "engine/rich_status.proto",
        ),
        "engine/grpc/generated",
        private_pool=True,
    ),
    CheckedIn(("interop_test.proto",), "examples/conformance/generated", "protos/grpc/testing"),
    CheckedIn(("conformance_probe.proto",), "examples/conformance/generated", "protos/conformance"),
    CheckedIn(("greet.proto",), "examples/stock", stock=True),
)

_IMPORT = re.compile(r"^(?:from (?P<package>[\w.]+) )?import (?P<module>\w+_pb2)(?P<alias> as \w+)$", re.MULTILINE)
# What protoc's message stubs lack under `mypy --strict`: the arguments of a mapping (a message field may be given
# as a dict of its own fields), the type of fields that are keywords, constants of a module that are no class
# variables, and a name for extensions that nothing imports; that of `Message` is right.
_STUB_SLIPS = (
    (re.compile(r"(?<! as )\b_Mapping\b(?!\[)"), "_Mapping[str, object]"),
    (re.compile(r"\*\*kwargs\)"), "**kwargs: object)"),
    (re.compile(r"^(\w+): _ClassVar\[int\]$", re.MULTILINE), r"\1: int"),
    (re.compile(r"^ +Extensions: _python_message\._ExtensionDict\n", re.MULTILINE), ""),
)
_DEFAULT_POOL, _OWN_POOL = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"
_PUBLIC_IMPORT = re.compile(r"^from (?P<module>[\w.]+_pb2) import (?P<names>.+)$", re.MULTILINE)


def generate(
    paths: Iterable[Path | str],
    out: Path | str,
    *,
    include: Sequence[Path | str] = (),
    imports: str = "relative",
    private_pool: bool = False,
    stock: bool = False,
) -> list[Path]:
    """Generate `_pb2.py`, `_pb2.pyi` and, for files with services, `_engine.py`.

    Args:
        paths: `.proto` files, or directories that are searched for them.
        out: the directory to write to; it is made where it is missing.
        include: where imports are looked up, the first one first; the directory of each path where none is
            given. Output keeps the place of a file relative to its include directory.
        imports: "relative": the generated modules import each other with dots, so that they work inside any
            package. "absolute": as protoc writes them.
        private_pool: register the messages of each file in a descriptor pool of its own, so that another
            package may bring the same names. Only for files that import none.
        stock: also grpcio's own `_pb2_grpc.py`, for files with services.

    Returns:
        What was written.

    Raises:
        ConfigError: a path is missing or outside of every include directory, or protoc refused a file.
        StartupError: grpcio-tools is not installed.
    """
    if find_spec("grpc_tools") is None:
        raise StartupError("grpcio-tools is missing; install engine with the extra: pip install 'engine[codegen]'")
    files, roots = _collect(paths, include)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", str(out), f"name a directory that can be written to ({error.strerror})") from None
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors"
        _run_protoc(files, roots, out, descriptors, stock=stock)
        described = FileDescriptorSet.FromString(descriptors.read_bytes())
    names = [_name_in(file, roots) for file in files]
    response = respond(
        CodeGeneratorRequest(file_to_generate=names, parameter=f"imports={imports}", proto_file=described.file)
    )
    if response.error:
        raise ConfigError("proto", None, response.error)
    suffixes = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py") if stock else ("_pb2.py", "_pb2.pyi")
    written = [out / module_path(name, suffix) for name in names for suffix in suffixes]
    if imports == "relative":
        for name in names:
            for suffix in suffixes:
                _make_relative(out / module_path(name, suffix), name, names)
    for name in names:
        path = out / module_path(name, "_pb2.pyi")
        text = path.read_text(encoding="utf-8")
        for slip, mended in _STUB_SLIPS:
            text = slip.sub(mended, text)
        path.write_text(text, encoding="utf-8")
    if private_pool:
        for name in names:
            path = out / module_path(name, "_pb2.py")
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(_DEFAULT_POOL, _OWN_POOL), encoding="utf-8")
    for file in response.file:
        (out / file.name).write_text(file.content, encoding="utf-8")
        written.append(out / file.name)
    return written


def regenerate(root: Path) -> list[Path]:
    """Generate again all that the project at `root` keeps in its tree.

    Raises:
        ConfigError, StartupError: see `generate`.
    """
    protos = root / "protos"
    if not protos.is_dir():
        raise ConfigError("PATH", None, "name .proto files or a directory; there is no protos/ here")
    return [
        path
        for each in CHECKED_IN
        for path in generate(
            [root / each.include / name for name in each.names],
            root / each.out,
            include=[root / each.include],
            private_pool=each.private_pool,
            stock=each.stock,
        )
    ]


def _collect(paths: Iterable[Path | str], include: Sequence[Path | str]) -> tuple[list[Path], list[Path]]:
    """The files to generate and the include directories, all absolute."""
    files: list[Path] = []
    roots = [Path(each).resolve() for each in include]
    for each in paths:
        path = Path(each).resolve()
        if path.is_dir():
            found, home = sorted(path.rglob("*.proto")), path
        else:
            found, home = [path], path.parent
        if not found or not all(file.is_file() for file in found):
            raise ConfigError("PATH", str(each), "there is no .proto file; name one, or a directory that has some")
        if not include and home not in roots:
            roots.append(home)
        files.extend(file for file in found if file not in files)
    return files, roots


def _name_in(file: Path, roots: Sequence[Path]) -> str:
    """The file as protoc names it: relative to the first include directory that it is in."""
    for root in roots:
        if file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    raise ConfigError("PATH", str(file), "it is in none of the include directories; add its own")


def _run_protoc(
    files: Sequence[Path], roots: Sequence[Path], out: Path, descriptors: Path, *, stock: bool = False
) -> None:
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{root}" for root in roots),
        *(f"--python_out={out}", f"--pyi_out={out}"),
        *([f"--grpc_python_out={out}"] if stock else []),
        *("--include_imports", "--include_source_info", f"--descriptor_set_out={descriptors}"),
        *(_name_in(file, roots) for file in files),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ConfigError("proto", None, f"protoc refused it: {result.stderr.strip() or 'no reason given'}")


def _make_relative(path: Path, name: str, names: Sequence[str]) -> None:
    """Rewrite a module's imports of the modules that were generated with it."""
    together = {module_path(each, "_pb2").replace("/", "."): each for each in names}

    def rewrite(match: re.Match[str]) -> str:
        package, module = match["package"], match["module"]
        proto = together.get(f"{package}.{module}" if package else module)
        if proto is None:
            return match[0]
        return f"from {relative_package(name, proto)} import {module}{match['alias']}"

    def rewrite_public(match: re.Match[str]) -> str:
        proto = together.get(match["module"])
        if proto is None:
            return match[0]
        package = relative_package(name, proto)
        dot = "" if package.endswith(".") else "."
        return f"from {package}{dot}{match['module'].rpartition('.')[2]} import {match['names']}"

    text = path.read_text(encoding="utf-8")
    path.write_text(_PUBLIC_IMPORT.sub(rewrite_public, _IMPORT.sub(rewrite, text)), encoding="utf-8")
