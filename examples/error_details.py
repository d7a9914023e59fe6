"""Errors that a program can act upon: google.rpc.Status with details of any message type.

The messages of google.rpc are in the package googleapis-common-protos.

python -m engine serve examples.error_details:app
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from engine import App, CallContext
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.errors import StatusCode
from engine.grpc import rich_error

MAX_NAME = 20


class Greeter(GreeterBase):
    """Says what is wrong with a name, and when to come back."""

    def __init__(self) -> None:
        self.tired = False

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        violations = [
            BadRequest.FieldViolation(field="name", description=text)
            for text, broken in (
                ("must not be empty", not request.name),
                (f"must have at most {MAX_NAME} letters", len(request.name) > MAX_NAME),
            )
            if broken
        ]
        if violations:
            bad = BadRequest(field_violations=violations)
            raise rich_error(StatusCode.INVALID_ARGUMENT, "the name cannot be greeted", bad)
        self.tired = not self.tired
        if not self.tired:
            wait = RetryInfo(retry_delay=Duration(seconds=1))
            raise rich_error(StatusCode.UNAVAILABLE, "one greeting at a time", wait)
        return HelloReply(message=f"Hello {request.name}")


app = App()
app.add_service(Greeter())
