"""Server reflection, grpc.reflection.v1 and v1alpha: what a server offers, for clients without .proto files.

Owns: the way from the services that are served to the descriptors of their files. Answers about nothing
else: what the process has imported beside its services is not told, save for extensions of messages that
are. Spec: grpc/grpc doc/server-reflection.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf import descriptor_pb2, descriptor_pool

from engine.errors import StatusCode
from engine.grpc.context import CallContext
from engine.grpc.generated.grpc.reflection.v1 import reflection_pb2 as v1
from engine.grpc.generated.grpc.reflection.v1.reflection_engine import ServerReflectionBase as ReflectionV1Base
from engine.grpc.generated.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from engine.grpc.generated.grpc.reflection.v1alpha.reflection_engine import (
    ServerReflectionBase as ReflectionV1AlphaBase,
)
from engine.grpc.requests import RequestStream
from engine.grpc.service import ServiceBase

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FileDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from engine.grpc.methods import ServiceSpec

__all__ = ["ReflectionV1", "ReflectionV1Alpha", "Serving", "reflection_services"]

_NOT_FOUND = int(StatusCode.NOT_FOUND)
_INVALID = int(StatusCode.INVALID_ARGUMENT)


class Serving(Protocol):
    """What has services: an `App` or a `GrpcEndpoint`."""

    @property
    def services(self) -> tuple[ServiceSpec, ...]:
        """Those that are served now."""


class _Files:
    """The descriptors behind the services; looked up anew for each question, since services may be added."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def names(self) -> list[str]:
        return sorted(spec.name for spec in self._serving.services)

    def pools(self) -> list[DescriptorPool]:
        """The pools in which the served types are, each once."""
        found = {id(pool): pool for spec in self._serving.services for pool in _pools_of(spec)}
        return list(found.values())

    def served(self) -> dict[str, FileDescriptor]:
        """All files that the services need, by name."""
        files: dict[str, FileDescriptor] = {}
        for spec in self._serving.services:
            for file in _files_of(spec):
                _collect(file, files)
        return files

    def containing(self, symbol: str) -> FileDescriptor | None:
        """The file that declares a symbol, if it is one that the services need."""
        served = self.served()
        for pool in self.pools():
            for name in _parents(symbol):
                file = _found(pool.FindFileContainingSymbol, name)
                if file is not None and file.name in served and (name == symbol or _declares(pool, name, symbol)):
                    return served[file.name]
        return None

    def message(self, name: str) -> tuple[DescriptorPool, Descriptor] | None:
        for pool in self.pools():
            message = _found(pool.FindMessageTypeByName, name)
            if message is not None:
                return pool, message
        return None

    def extension_numbers(self, name: str) -> list[int] | None:
        found = self.message(name)
        if found is None:
            return None
        pool, message = found
        return sorted(extension.number for extension in pool.FindAllExtensions(message))

    def extension(self, name: str, number: int) -> FileDescriptor | None:
        found = self.message(name)
        if found is None:
            return None
        pool, message = found
        for extension in pool.FindAllExtensions(message):
            if extension.number == number:
                return _file_of(extension)
        return None


def _file_of(descriptor: Any) -> FileDescriptor:
    """The file of any descriptor; the stubs of protobuf leave the attribute out for some."""
    file: FileDescriptor = descriptor.file
    return file


def _found(find: Callable[[str], Any], name: str) -> Any:
    try:
        return find(name)
    except KeyError:
        return None


def _pools_of(spec: ServiceSpec) -> Iterator[DescriptorPool]:
    for method in spec.methods:
        for kind in (method.request_type, method.response_type):
            descriptor = getattr(kind, "DESCRIPTOR", None)
            if descriptor is not None:
                yield descriptor.file.pool
    yield descriptor_pool.Default()


def _files_of(spec: ServiceSpec) -> Iterator[FileDescriptor]:
    """The service's own file and those of its messages."""
    for pool in _pools_of(spec):
        service = _found(pool.FindServiceByName, spec.name)
        if service is not None:
            yield service.file
            break
    for method in spec.methods:
        for kind in (method.request_type, method.response_type):
            descriptor = getattr(kind, "DESCRIPTOR", None)
            if descriptor is not None:
                yield descriptor.file


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    """A file and all that it imports, the imports after it."""
    if file.name not in files:
        files[file.name] = file
        for imported in file.dependencies:
            _collect(imported, files)


def _parents(symbol: str) -> Iterator[str]:
    """The symbol, then what it may be a part of: pools know neither all fields nor all methods by name."""
    parts = symbol.split(".")
    for size in range(len(parts), max(0, len(parts) - 2), -1):
        yield ".".join(parts[:size])


def _declares(pool: DescriptorPool, parent: str, symbol: str) -> bool:
    """`symbol` is a field, an enum value, a oneof or a method directly inside of `parent`."""
    name = symbol[len(parent) + 1 :]
    message = _found(pool.FindMessageTypeByName, parent)
    if message is not None:
        return name in message.fields_by_name or name in message.oneofs_by_name or name in message.enum_values_by_name
    service = _found(pool.FindServiceByName, parent)
    if service is not None:
        return name in service.methods_by_name
    enum = _found(pool.FindEnumTypeByName, parent)
    return enum is not None and name in enum.values_by_name


def _serialised(file: FileDescriptor) -> list[bytes]:
    """The file and all that it imports, so that a client need not ask for each."""
    files: dict[str, FileDescriptor] = {}
    _collect(file, files)
    answer: list[bytes] = []
    for each in files.values():
        described = descriptor_pb2.FileDescriptorProto()
        each.CopyToProto(described)
        answer.append(described.SerializeToString())
    return answer


def _answer(files: _Files, request: Any, response: Any) -> None:
    """Fill in the response; both versions have the same fields, so one function serves both."""
    response.valid_host = request.host
    response.original_request.CopyFrom(request)
    kind = request.WhichOneof("message_request")
    missing = ""
    if kind == "list_services":
        for name in files.names():
            response.list_services_response.service.add(name=name)
        response.list_services_response.SetInParent()
    elif kind == "file_by_filename":
        missing = _give_file(response, files.served().get(request.file_by_filename), request.file_by_filename)
    elif kind == "file_containing_symbol":
        symbol = request.file_containing_symbol.removeprefix(".")
        missing = _give_file(response, files.containing(symbol), symbol)
    elif kind == "file_containing_extension":
        asked = request.file_containing_extension
        found = files.extension(asked.containing_type, asked.extension_number)
        missing = _give_file(response, found, f"extension {asked.extension_number} of {asked.containing_type}")
    elif kind == "all_extension_numbers_of_type":
        name = request.all_extension_numbers_of_type
        numbers = files.extension_numbers(name)
        if numbers is None:
            missing = name
        else:
            response.all_extension_numbers_response.base_type_name = name
            response.all_extension_numbers_response.extension_number.extend(numbers)
    else:
        response.error_response.error_code = _INVALID
        response.error_response.error_message = "the request asks for nothing that this server knows of"
    if missing:
        response.error_response.error_code = _NOT_FOUND
        response.error_response.error_message = f"not found: {missing}"


def _give_file(response: Any, file: FileDescriptor | None, what: str) -> str:
    """Put a file into the response; what is missing otherwise."""
    if file is None:
        return what or "the empty name"
    response.file_descriptor_response.file_descriptor_proto.extend(_serialised(file))
    return ""


class ReflectionV1(ReflectionV1Base):
    """grpc.reflection.v1.ServerReflection."""

    def __init__(self, serving: Serving) -> None:
        self._files = _Files(serving)

    async def server_reflection_info(
        self, requests: RequestStream[v1.ServerReflectionRequest], context: CallContext
    ) -> AsyncGenerator[v1.ServerReflectionResponse, None]:
        async for request in requests:
            response = v1.ServerReflectionResponse()
            _answer(self._files, request, response)
            yield response


class ReflectionV1Alpha(ReflectionV1AlphaBase):
    """grpc.reflection.v1alpha.ServerReflection, which older tools ask."""

    def __init__(self, serving: Serving) -> None:
        self._files = _Files(serving)

    async def server_reflection_info(
        self, requests: RequestStream[v1alpha.ServerReflectionRequest], context: CallContext
    ) -> AsyncGenerator[v1alpha.ServerReflectionResponse, None]:
        async for request in requests:
            response = v1alpha.ServerReflectionResponse()
            _answer(self._files, request, response)
            yield response


def reflection_services(serving: Serving) -> Iterable[ServiceBase]:
    """Both versions, to be added to what they tell of; `App.add_reflection` does it."""
    return ReflectionV1(serving), ReflectionV1Alpha(serving)
