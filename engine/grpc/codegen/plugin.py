"""`protoc-gen-engine`: the plugin that protoc runs (google/protobuf/compiler/plugin.proto).

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --engine_out=. greet.proto

Options, given as `--engine_opt=NAME=VALUE`:

- `imports=relative` (default): message modules of the same run are imported with dots, so that the result
  works inside any package; `imports=absolute`: as protoc's own Python output does it.
"""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from engine.grpc.codegen.emit import CannotGenerate, ModuleWriter, message_homes, module_path

_OPTIONS = {"imports": ("relative", "absolute")}


def respond(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Generate a module for each requested file that has services. Errors go into the response."""
    response = CodeGeneratorResponse(
        supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=Edition.EDITION_2024,
    )
    try:
        options = _parse_options(request.parameter)
        homes = message_homes(request.proto_file)
        for file in request.proto_file:
            if file.name in request.file_to_generate and file.service:
                writer = ModuleWriter(
                    file,
                    homes,
                    relative=options["imports"] == "relative",
                    together=request.file_to_generate,
                )
                response.file.add(name=module_path(file.name, "_engine.py"), content=writer.write())
    except CannotGenerate as error:
        del response.file[:]
        response.error = str(error)
    return response


def main() -> None:
    """Entry point of the console script: a request on stdin, a response on stdout."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(respond(request).SerializeToString())


def _parse_options(parameter: str) -> dict[str, str]:
    options = {name: values[0] for name, values in _OPTIONS.items()}
    for item in filter(None, parameter.split(",")):
        name, _, value = item.partition("=")
        if value not in _OPTIONS.get(name, ()):
            known = "; ".join(f"{option}={'|'.join(values)}" for option, values in _OPTIONS.items())
            raise CannotGenerate(f"protoc-gen-engine: unknown option {item!r}; there are: {known}")
        options[name] = value
    return options


if __name__ == "__main__":
    main()
