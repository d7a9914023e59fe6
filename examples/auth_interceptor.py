"""Who may call what: a token in the metadata, or a client certificate, checked once for all methods.

python -m engine serve examples.auth_interceptor:app
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from typing import Any

from engine import App, CallContext
from engine.demo.greeter import Greeter
from engine.errors import StatusCode
from engine.grpc import MethodOptions, ServerInterceptor
from engine.grpc.health import HealthService
from engine.grpc.interceptors import Proceed, ProceedStream

TOKENS = {"ada": "secret-of-ada", "bob": "secret-of-bob"}  # a real app asks its identity provider
ADMINISTRATORS = {"ada"}


class Authenticate(ServerInterceptor):
    """Refuses calls without a known token; `authorization: Bearer TOKEN`, as HTTP has it."""

    async def intercept_unary(self, request: Any, context: CallContext, proceed: Proceed) -> Any:
        self.check(context)
        return await proceed(request, context)

    def intercept_stream(self, request: Any, context: CallContext, proceed: ProceedStream) -> AsyncIterator[Any]:
        self.check(context)
        return proceed(request, context)

    def check(self, context: CallContext) -> None:
        name = self.name_of(context)
        if name is None:
            context.abort(StatusCode.UNAUTHENTICATED, "send authorization: Bearer TOKEN")
        if context.method.kind.response_streaming and name not in ADMINISTRATORS:
            context.abort(StatusCode.PERMISSION_DENIED, f"{name} may not open streams")

    def name_of(self, context: CallContext) -> str | None:
        if context.tls_identity is not None:  # with tls.client_ca_file: the handshake has checked it
            return context.tls_identity.common_names[0]
        scheme, _, token = str(context.metadata.get("authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        sent = token.encode()
        return next((name for name, known in TOKENS.items() if hmac.compare_digest(known.encode(), sent)), None)


app = App()
app.add_service(
    Greeter(),
    interceptors=[Authenticate()],
    options=MethodOptions(timeout=30.0),
    method_options={"collect_names": MethodOptions(timeout=5.0, max_receive_message_size=1024)},
)
app.add_service(HealthService("greet.Greeter"))  # load balancers have no token
