"""Every text that the hub tells a client, exactly as ASP.NET Core words it.

Clients and users match on them. Method names are those of the wire, as declared.

Spec: DefaultHubDispatcher.cs, HubConnectionHandler.cs, ErrorMessageHelper.cs.
"""

from __future__ import annotations

from engine.errors import HubError, LimitExceeded

NO_SUCH_METHOD = "HubException: Method does not exist."
TYPES_DO_NOT_FIT = (
    "InvalidDataException: Error binding arguments. Make sure that the types of the provided values match "
    "the types of the hub method being invoked."
)
ITEM_DOES_NOT_FIT = "Failed to bind Stream message."
GONE = "The underlying connection was closed."


def detail(error: BaseException, *, detailed: bool) -> str:
    """What may be said about an error: all of a HubError, of others only with `detailed_errors`."""
    if isinstance(error, HubError):
        return f" HubException: {error}"
    return f" {type(error).__name__}: {error}" if detailed else ""


def method_detail(error: BaseException, *, detailed: bool) -> str:
    """`detail` of what left a method: limits are told as well, for the client can keep them."""
    return f" HubException: {error}" if isinstance(error, LimitExceeded) else detail(error, detailed=detailed)


def invocation_failed(method: str, detail: str) -> str:
    return f"An unexpected error occurred invoking '{method}' on the server.{detail}"


def cannot_invoke(method: str, detail: str) -> str:
    return f"Failed to invoke '{method}' due to an error on the server.{detail}"


def unknown_method(method: str) -> str:
    return cannot_invoke(method, f" {NO_SUCH_METHOD}")


def wrong_count(count: int, expected: int) -> str:
    return f"InvalidDataException: Invocation provides {count} argument(s) but target expects {expected}."


def wrong_streams(method: str, count: int, expected: int) -> str:
    return invocation_failed(method, f" HubException: Client sent {count} stream(s), Hub method expects {expected}.")


def unauthorized(method: str) -> str:
    return f"Failed to invoke '{method}' because user is unauthorized"


def streaming_method(method: str) -> str:
    return f"The client attempted to invoke the streaming '{method}' method with a non-streaming invocation."


def plain_method(method: str) -> str:
    return f"The client attempted to invoke the non-streaming '{method}' method with a streaming invocation."


def stream_failed(detail: str) -> str:
    return f"An error occurred on the server while streaming results.{detail}"


def id_in_use(invocation_id: str) -> str:
    return f"Invocation ID '{invocation_id}' is already in use."


def stream_id_in_use(stream_id: str) -> str:
    return f"Stream ID '{stream_id}' is already in use."


def closed_with_error(detail: str) -> str:
    return f"Connection closed with an error.{detail}"


def no_such_connection(connection_id: str) -> str:
    return f"Connection '{connection_id}' does not exist."


def connection_gone(connection_id: str) -> str:
    return f"Connection '{connection_id}' disconnected."
