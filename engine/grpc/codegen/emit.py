"""One `{name}_engine.py` from the descriptor of one `.proto` file.

Owns: the text of generated modules, the names in it and its imports. Reads descriptors only, no files.
"""

from __future__ import annotations

import keyword
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)

from engine.grpc.methods import MethodKind

_LINE = 120  # the widest line of generated code
_SERVICE_FIELD = 6  # FileDescriptorProto.service, in the paths of source locations
_METHOD_FIELD = 2  # ServiceDescriptorProto.method
_MESSAGE_MODULE = re.compile(r"_pb2(_[0-9]+)?$")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_KINDS = {
    (False, False): MethodKind.UNARY,
    (False, True): MethodKind.SERVER_STREAMING,
    (True, False): MethodKind.CLIENT_STREAMING,
    (True, True): MethodKind.BIDIRECTIONAL,
}

_STUB_METHODS = {
    MethodKind.UNARY: "UnaryMethod",
    MethodKind.SERVER_STREAMING: "ServerStreamMethod",
    MethodKind.CLIENT_STREAMING: "ClientStreamMethod",
    MethodKind.BIDIRECTIONAL: "BidiMethod",
}


class CannotGenerate(Exception):
    """The descriptors ask for something that cannot be written as Python; the text says what to change."""


@dataclass(frozen=True, slots=True)
class MessageHome:
    """Where the Python class of a message is."""

    file: str  # "grpc/testing/test.proto"
    name: str  # "Outer.Inner"


def message_homes(files: Iterable[FileDescriptorProto]) -> dict[str, MessageHome]:
    """Every message of these files by its full name with the leading dot, as descriptors refer to it."""
    homes: dict[str, MessageHome] = {}
    for file in files:
        prefix = f".{file.package}" if file.package else ""
        for message in file.message_type:
            _add_message(homes, file.name, prefix, "", message)
    return homes


def _add_message(homes: dict[str, MessageHome], file: str, prefix: str, outer: str, message: DescriptorProto) -> None:
    name = f"{outer}{message.name}"
    homes[f"{prefix}.{name}"] = MessageHome(file, name)
    for nested in message.nested_type:
        _add_message(homes, file, prefix, f"{name}.", nested)


def module_path(proto: str, suffix: str) -> str:
    """`grpc/testing/test.proto` and `_pb2` to `grpc/testing/test_pb2`, as protoc names Python modules."""
    return proto.removesuffix(".proto").replace("-", "_") + suffix


def snake_case(name: str) -> str:
    """`SayHello` to `say_hello`, `GetHTTPStatus` to `get_http_status`.

    What means something else in a class gets an underscore: keywords, names of message modules, and names that
    begin with underscores, which are Python's and ours.
    """
    snake = _WORD_START.sub("_", name).lower()
    if snake[:1] == "_":
        return f"{snake.strip('_')}_"
    return f"{snake}_" if keyword.iskeyword(snake) or _MESSAGE_MODULE.search(snake) else snake


def method_names(service: ServiceDescriptorProto) -> list[str]:
    """The Python names of a service's methods; the later one of two that are alike keeps its own spelling."""
    taken: set[str] = set()
    names: list[str] = []
    for method in service.method:
        name = snake_case(method.name)
        if name in taken and method.name.isidentifier() and not keyword.iskeyword(method.name):
            name = method.name
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    return names


class ModuleWriter:
    """Writes the module of one file.

    Args:
        file: what to write, with source information for the comments.
        homes: of every message that its services mention.
        relative: import the message modules of `together` relative to this one, so that the result works
            inside any package.
        together: the files whose modules are placed in one tree with this one.
    """

    def __init__(
        self,
        file: FileDescriptorProto,
        homes: Mapping[str, MessageHome],
        *,
        relative: bool,
        together: Iterable[str] = (),
    ) -> None:
        self._file = file
        self._homes = homes
        self._relative = relative
        self._together = frozenset(together)
        self._aliases: dict[str, str] = {}  # .proto file: the name of its module here
        self._used: set[str] = set()  # names of `engine.grpc`
        self._comments = {tuple(at.path): at for at in file.source_code_info.location}
        self._classes = {f"{each.name}{kind}" for each in file.service for kind in ("Base", "Stub")}

    def write(self) -> str:
        """The text of the module.

        Raises:
            CannotGenerate: two methods have one Python name, or a name is no identifier.
        """
        classes: list[str] = []
        for index in range(len(self._file.service)):
            classes += ["", "", *self._service(index), "", "", *self._stub(index)]
        head = [
            f"# Generated by protoc-gen-engine from {self._file.name}. Do not edit.",
            "",
            "from __future__ import annotations",
            "",
            "from typing import ClassVar",
            "",
            *self._imports(),
        ]
        return "\n".join([*head, *classes]) + "\n"

    # -- imports --------------------------------------------------------------

    def _imports(self) -> list[str]:
        names = sorted(self._used, key=lambda name: (name.islower(), name))
        names = [name if self._engine(name) == name else f"{name} as {self._engine(name)}" for name in names]
        lines = _wrapped("from engine.grpc import ", names)
        absolute: list[str] = []
        relative: list[str] = []
        for proto, alias in sorted(self._aliases.items()):
            package, _, module = module_path(proto, "_pb2").replace("/", ".").rpartition(".")
            as_alias = "" if alias == module else f" as {alias}"
            if self._is_relative(proto):
                relative.append(f"from {relative_package(self._file.name, proto)} import {module}{as_alias}")
            elif package:
                absolute.append(f"from {package} import {module}{as_alias}")
            else:
                absolute.append(f"import {module}{as_alias}")
        if absolute:
            lines = [*absolute, "", *lines]
        return [*lines, "", *relative] if relative else lines

    def _engine(self, name: str) -> str:
        """A name of `engine.grpc` in this module, where a service called Service or Stub may need it."""
        self._used.add(name)
        return f"_{name}" if name in self._classes else name

    def _is_relative(self, proto: str) -> bool:
        return self._relative and (proto == self._file.name or proto in self._together)

    def _message(self, full_name: str) -> str:
        """The expression for a message class; its module is imported."""
        home = self._homes[full_name]
        for part in (*module_path(home.file, "_pb2").split("/"), *home.name.split(".")):
            if keyword.iskeyword(part) or not part.isidentifier():
                raise CannotGenerate(f"{self._file.name}: {part!r} of {full_name} is no Python name; rename it")
        alias = self._aliases.get(home.file)
        if alias is None:
            name = posixpath.basename(module_path(home.file, "_pb2"))
            alias, taken = name, set(self._aliases.values())
            number = 2
            while alias in taken:
                alias, number = f"{name}_{number}", number + 1
            self._aliases[home.file] = alias
        return f"{alias}.{home.name}"

    # -- classes --------------------------------------------------------------

    def _service(self, index: int) -> list[str]:
        service = self._file.service[index]
        full_name = f"{self._file.package}.{service.name}" if self._file.package else service.name
        self._used.add("ServiceSpec")
        if keyword.iskeyword(service.name):
            raise CannotGenerate(f"{self._file.name}: service {service.name!r} is a Python keyword; rename it")
        doc = self._doc(index) or f" Override the methods to serve {full_name}."
        lines = [f"class {service.name}Base({self._engine('ServiceBase')}):", *_docstring(doc, 4), ""]
        lines += [
            "    __service__: ClassVar[ServiceSpec] = ServiceSpec(",
            f'        name="{full_name}",',
            f'        file="{self._file.name}",',
            "        methods=(" + ("" if service.method else "),"),
        ]
        names = method_names(service)
        for method, name in zip(service.method, names, strict=True):
            lines += self._spec(full_name, method, name)
        if service.method:
            lines.append("        ),")
        lines.append("    )")
        for position, (method, name) in enumerate(zip(service.method, names, strict=True)):
            lines += ["", *self._detached(index, position)]
            lines += self._handler(full_name, method, name, self._doc(index, position))
        return ["", *self._detached(index), *lines] if self._detached(index) else lines

    def _spec(self, full_name: str, method: MethodDescriptorProto, name: str) -> list[str]:
        kind = _KINDS[method.client_streaming, method.server_streaming]
        self._used |= {"MethodKind", "MethodSpec"}
        lines = [
            "            MethodSpec(",
            f'                path="/{full_name}/{method.name}",',
            f"                kind=MethodKind.{kind.name},",
            f"                request_type={self._message(method.input_type)},",
            f"                response_type={self._message(method.output_type)},",
            f'                name="{name}",',
        ]
        if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
            lines.append("                no_side_effects=True,")
        return [*lines, "            ),"]

    def _handler(self, full_name: str, method: MethodDescriptorProto, name: str, comment: str) -> list[str]:
        self._used |= {"CallContext", "unimplemented"}
        request, reply = self._message(method.input_type), self._message(method.output_type)
        if method.client_streaming:
            self._used.add("RequestStream")
            argument = f"requests: RequestStream[{request}]"
        else:
            argument = f"request: {request}"
        if method.server_streaming:
            self._used.add("StreamingReply")
            definition, returns = "def", f"StreamingReply[{reply}]"
        else:
            definition, returns = "async def", reply
        lines = [f"    {definition} {name}(self, {argument}, context: CallContext) -> {returns}:"]
        if len(lines[0]) > _LINE:
            lines = [
                f"    {definition} {name}(",
                f"        self, {argument}, context: CallContext",
                f"    ) -> {returns}:",
            ]
        if comment:
            lines += _docstring(comment, 8)
        return [*lines, f'        raise unimplemented("/{full_name}/{method.name}")']

    # -- stubs ----------------------------------------------------------------

    def _stub(self, index: int) -> list[str]:
        service = self._file.service[index]
        full_name = f"{self._file.package}.{service.name}" if self._file.package else service.name
        self._used.add("Channel")
        lines = [
            f"class {service.name}Stub({self._engine('StubBase')}):",
            f'    """Calls {full_name} through a channel."""',
            "",
            "    def __init__(self, channel: Channel) -> None:",
            "        super().__init__(channel)",
        ]
        if service.options.deprecated or self._file.options.deprecated:
            self._used.add("deprecated")
            lines.insert(3, f'    @deprecated("the service {full_name} is deprecated")')
        if service.method:
            lines.append(f"        service = {service.name}Base.__service__")
        properties: list[str] = []
        for position, (method, name) in enumerate(zip(service.method, method_names(service), strict=True)):
            doc = _docstring(self._doc(index, position), 8)
            if method.options.deprecated:
                # A property, because type checkers and Python warn of functions only.
                self._used.add("deprecated")
                lines += self._stub_method(method, position, f"_deprecated_{position}")
                properties += ["", "    @property", f'    @deprecated("/{full_name}/{method.name} is deprecated")']
                properties += [f"    def {name}(self) -> {self._stub_type(method)}:", *doc]
                properties.append(f"        return self._deprecated_{position}")
            else:
                lines += [*self._stub_method(method, position, name), *doc]
        return [*lines, *properties]

    def _stub_type(self, method: MethodDescriptorProto) -> str:
        kind = _STUB_METHODS[_KINDS[method.client_streaming, method.server_streaming]]
        return f"{kind}[{self._message(method.input_type)}, {self._message(method.output_type)}]"

    def _stub_method(self, method: MethodDescriptorProto, position: int, name: str) -> list[str]:
        kind = _STUB_METHODS[_KINDS[method.client_streaming, method.server_streaming]]
        self._used.add(kind)
        target = f"        self.{name}"
        types = (self._message(method.input_type), self._message(method.output_type))
        value = f"{kind}(*self._method(service, {position}))"
        line = f"{target}: {kind}[{', '.join(types)}] = {value}"
        if len(line) <= _LINE:
            return [line]
        split = [f"{target}: {kind}[{', '.join(types)}] = {kind}(", f"            *self._method(service, {position})"]
        if len(split[0]) <= _LINE:
            return [*split, "        )"]
        return [f"{target}: {kind}[", *(f"            {each}," for each in types), f"        ] = {value}"]

    # -- comments -------------------------------------------------------------

    def _doc(self, index: int, position: int | None = None) -> str:
        """The comments right before and right behind a service, or a method of it."""
        path = (_SERVICE_FIELD, index) if position is None else (_SERVICE_FIELD, index, _METHOD_FIELD, position)
        at = self._comments.get(path)
        return "\n".join(filter(None, (at.leading_comments, at.trailing_comments))) if at is not None else ""

    def _detached(self, index: int, position: int | None = None) -> list[str]:
        """The comments that stand by themselves before it, as comments."""
        path = (_SERVICE_FIELD, index) if position is None else (_SERVICE_FIELD, index, _METHOD_FIELD, position)
        margin = "" if position is None else "    "
        lines: list[str] = []
        for comment in self._comments[path].leading_detached_comments if path in self._comments else ():
            lines += [f"{margin}# {line}".rstrip() for line in _lines(comment)]
            lines.append("")
        return lines


def relative_package(importer: str, imported: str) -> str:
    """The dots and names that lead from the module of one .proto file to the package of another's."""
    here, there = importer.split("/")[:-1], imported.split("/")[:-1]
    shared = 0
    while shared < min(len(here), len(there)) and here[shared] == there[shared]:
        shared += 1
    return "." * (len(here) - shared + 1) + ".".join(part.replace("-", "_") for part in there[shared:])


def _docstring(comment: str, indent: int) -> list[str]:
    """A comment of the .proto file as a docstring."""
    lines = _lines(comment.replace("\\", "\\\\").replace('"""', '\\"\\"\\"'))
    if not lines:
        return []
    margin = " " * indent
    if len(lines) == 1:
        gap = " " if lines[0].endswith('"') else ""  # four quotes in a row would end the string early
        return [f'{margin}"""{lines[0]}{gap}"""']
    return [f'{margin}"""{lines[0]}', *(f"{margin}{line}" if line else "" for line in lines[1:]), f'{margin}"""']


def _lines(comment: str) -> list[str]:
    """The lines of a comment without the space that follows `//`."""
    return [line.removeprefix(" ").rstrip() for line in comment.strip().splitlines()]


def _wrapped(start: str, names: list[str]) -> list[str]:
    line = start + ", ".join(names)
    if len(line) <= _LINE:
        return [line]
    return [f"{start}(", *(f"    {name}," for name in names), ")"]
