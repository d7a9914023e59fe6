"""FloodRequest and Chunk of the benchmark's streams, built at run time so that each peer encodes real protobuf.

service Streams {                                    // package benchmark
  rpc Flood(FloodRequest) returns (stream Chunk);    // `count` chunks of `size` bytes
  rpc Echo(stream Chunk) returns (stream Chunk);
}
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES

_file = descriptor_pb2.FileDescriptorProto(name="peers/streams.proto", package="benchmark", syntax="proto3")
for _message, _fields in (("FloodRequest", (("count", _INT32), ("size", _INT32))), ("Chunk", (("data", _BYTES),))):
    _type = _file.message_type.add(name=_message)
    for _number, (_field, _kind) in enumerate(_fields, 1):
        _type.field.add(
            name=_field, number=_number, type=_kind, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        )
_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file)

FloodRequest = message_factory.GetMessageClass(_pool.FindMessageTypeByName("benchmark.FloodRequest"))
Chunk = message_factory.GetMessageClass(_pool.FindMessageTypeByName("benchmark.Chunk"))
