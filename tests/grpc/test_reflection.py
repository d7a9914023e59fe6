"""Server reflection: every kind of question, in both versions."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from engine import App
from engine.demo.greeter import Greeter
from engine.errors import StatusCode
from engine.grpc import GrpcEndpoint, MethodKind, MethodSpec, ServiceBase, ServiceSpec
from engine.grpc.generated.grpc.reflection.v1 import reflection_pb2 as v1
from engine.grpc.generated.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from engine.grpc.reflection import reflection_services
from tests.grpc.calls import call

VERSIONS = pytest.mark.parametrize("pb", [v1, v1alpha], ids=["v1", "v1alpha"])


def extended_file() -> descriptor_pb2.FileDescriptorProto:
    """A proto2 file with a message, two extensions of it, and an enum."""
    file = descriptor_pb2.FileDescriptorProto(name="acme/ext.proto", package="acme", syntax="proto2")
    message = file.message_type.add(name="Base")
    message.extension_range.add(start=100, end=200)
    message.field.add(name="plain", number=1, type=5, label=1)
    message.nested_type.add(name="Inner").enum_type.add(name="Kind").value.add(name="NONE", number=0)
    for name, number in (("b", 120), ("a", 110)):
        file.extension.add(name=name, number=number, type=9, label=1, extendee=".acme.Base")
    service = file.service.add(name="Extended")
    service.method.add(name="Do", input_type=".acme.Base", output_type=".acme.Base")
    return file


def extended_service() -> ServiceBase:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(extended_file().SerializeToString())
    base = message_factory.GetMessageClass(pool.FindMessageTypeByName("acme.Base"))

    class Extended(ServiceBase):
        __service__ = ServiceSpec(
            "acme.Extended", (MethodSpec("/acme.Extended/Do", MethodKind.UNARY, base, base, "do"),), "acme/ext.proto"
        )

        async def do(self, request: Any, context: Any) -> Any:
            return request

    return Extended()


async def ask(pb: Any, **question: Any) -> Any:
    endpoint = GrpcEndpoint([Greeter(), extended_service()])
    for service in reflection_services(endpoint):
        endpoint.add(service)
    request = pb.ServerReflectionRequest(host="h", **question)
    path = f"/{pb.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo"
    exchange = await call(endpoint, path, request.SerializeToString())
    (answer,) = exchange.messages
    response = pb.ServerReflectionResponse.FromString(answer)
    assert (response.valid_host, response.original_request) == ("h", request)
    return response


async def files_for(pb: Any, **question: Any) -> list[str]:
    response = await ask(pb, **question)
    assert response.WhichOneof("message_response") == "file_descriptor_response"
    files = response.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(each).name for each in files]


@VERSIONS
async def test_services_are_listed(pb: Any) -> None:
    response = await ask(pb, list_services="")
    assert [each.name for each in response.list_services_response.service] == [
        "acme.Extended",
        "greet.Greeter",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


@VERSIONS
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("greet.Greeter", "greet.proto"),
        (".greet.Greeter", "greet.proto"),
        ("greet.Greeter.SayHello", "greet.proto"),
        ("greet.HelloRequest", "greet.proto"),
        ("greet.HelloRequest.name", "greet.proto"),
        ("acme.Base.Inner", "acme/ext.proto"),
        ("acme.Base.Inner.Kind", "acme/ext.proto"),
        ("acme.a", "acme/ext.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
    ],
)
async def test_a_symbol_leads_to_its_file(pb: Any, symbol: str, file: str) -> None:
    assert await files_for(pb, file_containing_symbol=symbol) == [file]


@VERSIONS
async def test_a_file_is_found_by_its_name_and_an_extension_by_its_number(pb: Any) -> None:
    assert await files_for(pb, file_by_filename="acme/ext.proto") == ["acme/ext.proto"]
    asked = pb.ExtensionRequest(containing_type="acme.Base", extension_number=110)
    assert await files_for(pb, file_containing_extension=asked) == ["acme/ext.proto"]
    response = await ask(pb, all_extension_numbers_of_type="acme.Base")
    numbers = response.all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == ("acme.Base", [110, 120])


@VERSIONS
@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nope.proto"},
        {"file_by_filename": "google/protobuf/descriptor.proto"},  # known to the process, not served
        {"file_containing_symbol": "greet.Nope"},
        {"file_containing_symbol": "greet.HelloRequest.nope"},
        {"file_containing_symbol": "google.protobuf.FileDescriptorProto"},
        {"file_containing_symbol": ""},
        {"all_extension_numbers_of_type": "acme.Nope"},
    ],
)
async def test_what_is_not_served_is_not_found(pb: Any, question: dict[str, str]) -> None:
    assert (await ask(pb, **question)).error_response.error_code == StatusCode.NOT_FOUND


@VERSIONS
async def test_unknown_extensions_are_not_found_and_empty_questions_are_told(pb: Any) -> None:
    for kind, number in (("acme.Base", 111), ("acme.Nope", 110)):
        asked = pb.ExtensionRequest(containing_type=kind, extension_number=number)
        answer = await ask(pb, file_containing_extension=asked)
        assert answer.error_response.error_code == StatusCode.NOT_FOUND
    assert (await ask(pb)).error_response.error_code == StatusCode.INVALID_ARGUMENT


def test_an_app_reflects_services_that_are_added_later() -> None:
    app = App()
    app.add_reflection()
    app.add_service(Greeter())
    assert [spec.name for spec in app.services][-1] == "greet.Greeter"
