"""HelloRequest and HelloReply of greet.proto, built at run time so that each peer decodes real protobuf."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_file = descriptor_pb2.FileDescriptorProto(name="peers/greet.proto", package="greet", syntax="proto3")
for _message, _field in (("HelloRequest", "name"), ("HelloReply", "message")):
    _file.message_type.add(name=_message).field.add(
        name=_field,
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file)

HelloRequest = message_factory.GetMessageClass(_pool.FindMessageTypeByName("greet.HelloRequest"))
HelloReply = message_factory.GetMessageClass(_pool.FindMessageTypeByName("greet.HelloReply"))
