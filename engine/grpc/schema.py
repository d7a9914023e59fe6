"""What services a server has and what their messages look like, learnt at run time.

Owns: descriptors from server reflection (grpc.reflection.v1, else v1alpha) or from .proto files, and the
methods that are called with them. For tools; a program that knows its services has generated code.

Spec: grpc/grpc doc/server-reflection.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from engine.errors import ConfigError, RpcError, StartupError, StatusCode
from engine.grpc.call import ClientMethod
from engine.grpc.channel import Channel
from engine.grpc.generated.grpc.reflection.v1 import reflection_pb2
from engine.grpc.methods import MethodKind

__all__ = ["FileSchema", "ReflectionSchema", "Schema", "describe"]

_REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")  # their messages are the same
_KINDS = {
    (False, False): MethodKind.UNARY,
    (False, True): MethodKind.SERVER_STREAMING,
    (True, False): MethodKind.CLIENT_STREAMING,
    (True, True): MethodKind.BIDIRECTIONAL,
}


class Schema(ABC):
    """Descriptors by name."""

    def __init__(self) -> None:
        self.pool = descriptor_pool.DescriptorPool()

    @abstractmethod
    async def services(self) -> list[str]:
        """The full names of all services, sorted."""

    @abstractmethod
    async def load(self, symbol: str) -> None:
        """Make sure that the pool knows a symbol, if anybody does."""

    async def find(self, symbol: str) -> ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor:
        """A service, method, message or enum by its full name.

        Raises:
            ConfigError: there is none.
        """
        # Some servers (grpcio's) know no methods, only what they are in.
        for holder in (symbol, symbol.rpartition(".")[0]):
            if holder:
                await self.load(holder)
            found = self._look_up(symbol)
            if found is not None:
                return found
        raise ConfigError("SYMBOL", symbol, f"there is no such name; services are {', '.join(await self.services())}")

    def _look_up(self, symbol: str) -> ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor | None:
        for look_up in (
            self.pool.FindServiceByName,
            self.pool.FindMethodByName,
            self.pool.FindMessageTypeByName,
            self.pool.FindEnumTypeByName,
        ):
            try:
                found: ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor = look_up(symbol)
                return found
            except KeyError:
                continue
        return None

    async def method(self, name: str) -> tuple[ClientMethod, type[Any]]:
        """A method, written `pkg.Service/Method` or `pkg.Service.Method`, and the class of its requests.

        Raises:
            ConfigError: there is none.
        """
        found = await self.find(name.strip("/").replace("/", "."))
        if not isinstance(found, MethodDescriptor):
            raise ConfigError("METHOD", name, "name a method, such as greet.Greeter/SayHello; `list` shows them")
        request = message_factory.GetMessageClass(found.input_type)
        reply = message_factory.GetMessageClass(found.output_type)
        kind = _KINDS[found.client_streaming, found.server_streaming]
        path = f"/{found.containing_service.full_name}/{found.name}"
        return ClientMethod(path, kind, request.SerializeToString, reply.FromString), request


class FileSchema(Schema):
    """From .proto files, compiled by protoc.

    Raises:
        ConfigError: protoc refused them.
        StartupError: grpcio-tools is not installed.
    """

    def __init__(self, files: Sequence[Path], include: Sequence[Path]) -> None:
        super().__init__()
        if find_spec("grpc_tools") is None:
            raise StartupError("--proto needs grpcio-tools; install the extra: pip install 'engine[codegen]'")
        roots = list(include) or list(dict.fromkeys(file.parent for file in files))
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "descriptors"
            command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{root}" for root in roots)]
            command += ["--include_imports", f"--descriptor_set_out={out}", *(str(file) for file in files)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise ConfigError("--proto", None, f"protoc refused it: {result.stderr.strip() or 'no reason given'}")
            found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
        self._services = sorted(_full_names(found.file))
        for file in found.file:
            self.pool.Add(file)

    async def services(self) -> list[str]:
        return self._services

    async def load(self, symbol: str) -> None:
        return


def _full_names(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> list[str]:
    return [
        f"{file.package}.{service.name}" if file.package else service.name for file in files for service in file.service
    ]


class ReflectionSchema(Schema):
    """From a server that has the reflection service."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._package = _REFLECTION[0]
        self._loaded: set[str] = set()

    async def services(self) -> list[str]:
        request = reflection_pb2.ServerReflectionRequest(list_services="*")
        response = await self._ask(request)
        return sorted(service.name for service in response.list_services_response.service)

    async def load(self, symbol: str) -> None:
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        response = await self._ask(request)
        await self._add(response.file_descriptor_response.file_descriptor_proto)

    async def _add(self, serialized: Iterable[bytes]) -> None:
        """Put files into the pool, those that they import first."""
        waiting = {}
        for each in serialized:
            file = descriptor_pb2.FileDescriptorProto.FromString(each)
            waiting[file.name] = file
        while True:
            missing = {
                name for file in waiting.values() for name in file.dependency if name not in waiting
            } - self._loaded
            if not missing:
                break
            for name in sorted(missing):
                response = await self._ask(reflection_pb2.ServerReflectionRequest(file_by_filename=name))
                found = response.file_descriptor_response.file_descriptor_proto
                if not found:
                    raise ConfigError(
                        "TARGET", self._channel.target, f"its reflection does not know {name}; use --proto"
                    )
                for each in found:
                    file = descriptor_pb2.FileDescriptorProto.FromString(each)
                    waiting[file.name] = file
        while waiting:
            ready = [file for file in waiting.values() if not any(name in waiting for name in file.dependency)]
            if not ready:
                raise ConfigError("TARGET", self._channel.target, "its files import each other in a circle")
            for file in ready:
                del waiting[file.name]
                if file.name not in self._loaded:
                    self._loaded.add(file.name)
                    self.pool.Add(file)

    async def _ask(self, request: reflection_pb2.ServerReflectionRequest) -> Any:
        """One question; an error response is an answer without content."""
        while True:
            try:
                return await self._ask_version(request)
            except RpcError as error:
                if error.code is not StatusCode.UNIMPLEMENTED:
                    raise
                if self._package == _REFLECTION[-1]:
                    text = "the server has no reflection service; name the .proto files of its services with --proto"
                    without = RpcError(error.code, text)
                    without.causes = error.causes
                    raise without from error
                self._package = _REFLECTION[-1]

    async def _ask_version(self, request: reflection_pb2.ServerReflectionRequest) -> Any:
        method = self._channel.stream_stream(
            f"/{self._package}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        async with method() as stream:
            await stream.send(request)
            response = await stream.receive()
            if response is None:
                raise RpcError(StatusCode.INTERNAL, "the reflection service ended without an answer")
            await stream.done_writing()
            return response


# -- as text --------------------------------------------------------------------


def describe(found: ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor) -> str:
    """A descriptor in the syntax of .proto files."""
    if isinstance(found, ServiceDescriptor):
        return _block(f"service {found.full_name}", [_rpc(method) for method in found.methods])
    if isinstance(found, MethodDescriptor):
        return _rpc(found)
    if isinstance(found, EnumDescriptor):
        return _block(f"enum {found.full_name}", _values(found))
    return _block(f"message {found.full_name}", _members(found))


def _values(enum: EnumDescriptor) -> list[str]:
    return [f"{value.name} = {value.number};" for value in enum.values]


def _members(message: Descriptor) -> list[str]:
    """The fields of a message, those of a oneof together, and behind them the types that it holds."""
    lines: list[str] = []
    told: set[str] = set()
    for field in message.fields:
        oneof = field.containing_oneof
        if oneof is None or _is_optional(field):
            lines.append(_field(field))
        elif oneof.name not in told:
            told.add(oneof.name)
            lines += _block(f"oneof {oneof.name}", [_field(each) for each in oneof.fields]).splitlines()
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            lines += _block(f"message {nested.name}", _members(nested)).splitlines()
    for enum in message.enum_types:
        lines += _block(f"enum {enum.name}", _values(enum)).splitlines()
    return lines


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{head} {{", *(f"  {line}" for line in lines), "}"])


def _rpc(method: MethodDescriptor) -> str:
    request = f"{'stream ' if method.client_streaming else ''}{method.input_type.full_name}"
    reply = f"{'stream ' if method.server_streaming else ''}{method.output_type.full_name}"
    return f"rpc {method.name}({request}) returns ({reply});"


_SCALARS = {
    getattr(FieldDescriptor, f"TYPE_{name.upper()}"): name
    for name in (
        *("double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string"),
        *("bytes", "uint32", "sfixed32", "sfixed64", "sint32", "sint64"),
    )
}


def _field(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields_by_name["key"], message.fields_by_name["value"]
        return f"map<{_type(key)}, {_type(value)}> {field.name} = {field.number};"
    label = ""
    if field.is_repeated:
        label = "repeated "
    elif field.is_required:
        label = "required "
    elif _is_optional(field):
        label = "optional "
    return f"{label}{_type(field)} {field.name} = {field.number};"


def _is_optional(field: FieldDescriptor) -> bool:
    """Whether a field that is no message can be absent."""
    oneof = field.containing_oneof
    if oneof is not None:  # one of its own is how proto3 has its `optional` fields
        return len(oneof.fields) == 1 and oneof.name == f"_{field.name}"
    return field.has_presence and field.message_type is None


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    return _SCALARS[field.type]
