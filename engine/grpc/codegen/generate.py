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

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from engine.errors import ConfigError, StartupError
from engine.grpc.codegen.emit import module_path, relative_package
from engine.grpc.codegen.plugin import respond

# Generated code that is checked in, relative to the project's root: (.proto files under protos/, package).
CHECKED_IN: tuple[tuple[tuple[str, ...], str], ...] = ((("greet.proto",), "engine/demo/generated"),)

_IMPORT = re.compile(r"^(?:from (?P<package>[\w.]+) )?import (?P<module>\w+_pb2)(?P<alias> as \w+)$", re.MULTILINE)
_PUBLIC_IMPORT = re.compile(r"^from (?P<module>[\w.]+_pb2) import (?P<names>.+)$", re.MULTILINE)


def generate(
    paths: Iterable[Path | str],
    out: Path | str,
    *,
    include: Sequence[Path | str] = (),
    imports: str = "relative",
) -> list[Path]:
    """Generate `_pb2.py`, `_pb2.pyi` and, for files with services, `_engine.py`.

    Args:
        paths: `.proto` files, or directories that are searched for them.
        out: the directory to write to; it is made where it is missing.
        include: where imports are looked up, the first one first; the directory of each path where none is
            given. Output keeps the place of a file relative to its include directory.
        imports: "relative": the generated modules import each other with dots, so that they work inside any
            package. "absolute": as protoc writes them.

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
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors"
        _run_protoc(files, roots, out, descriptors)
        described = FileDescriptorSet.FromString(descriptors.read_bytes())
    names = [_name_in(file, roots) for file in files]
    response = respond(
        CodeGeneratorRequest(file_to_generate=names, parameter=f"imports={imports}", proto_file=described.file)
    )
    if response.error:
        raise ConfigError("proto", None, response.error)
    written = [out / module_path(name, suffix) for name in names for suffix in ("_pb2.py", "_pb2.pyi")]
    if imports == "relative":
        for name in names:
            for suffix in ("_pb2.py", "_pb2.pyi"):
                _make_relative(out / module_path(name, suffix), name, names)
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
        for names, out in CHECKED_IN
        for path in generate([protos / name for name in names], root / out, include=[protos])
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


def _run_protoc(files: Sequence[Path], roots: Sequence[Path], out: Path, descriptors: Path) -> None:
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{root}" for root in roots),
        *(f"--python_out={out}", f"--pyi_out={out}"),
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
