"""Cross-origin calls: which pages may call, and what they may read.

Owns the `access-control-*` fields of gRPC-Web and Connect. gRPC itself has none: a browser cannot speak it.
Nothing is allowed unless `grpc.cors_origins` says so. Spec: fetch.spec.whatwg.org, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import GrpcConfig
    from engine.transport.exchange import Exchange, Fields, RequestHead

# What the clients look for beside the metadata.
_EXPOSED = b"content-encoding, grpc-accept-encoding, grpc-encoding, grpc-message, grpc-status, grpc-status-details-bin"
_LONG = 2**31 - 1  # seconds; `math.inf` is no number of them
_VARY_ORIGIN = (b"vary", b"origin")
# Named in every list of exposed fields, or readable without it.
_SKIPPED = frozenset(_EXPOSED.split(b", ")) | {b"cache-control", b"content-type", b"expires", b"last-modified"}


def fields(exchange: Exchange, metadata: Fields = ()) -> Fields:
    """The fields that let the page that called read the response, its metadata included."""
    config = exchange.config.grpc
    if not config.cors_origins:
        return ()
    allowed = _allow_origin(config, exchange.head)
    varies: Fields = () if "*" in config.cors_origins else (_VARY_ORIGIN,)
    if allowed is None:
        return varies
    names = {name for name, _ in metadata} - _SKIPPED
    names.update(name.lower().encode("latin-1") for name in config.cors_exposed_headers)
    exposed = b", ".join((_EXPOSED, *sorted(names)))
    return (
        (b"access-control-allow-origin", allowed),
        (b"access-control-expose-headers", exposed),
        *varies,
    )


def is_preflight(head: RequestHead) -> bool:
    """A browser asks whether a page may call."""
    return (
        head.method == "OPTIONS"
        and head.header(b"origin") is not None
        and head.header(b"access-control-request-method") is not None
    )


def answer_preflight(exchange: Exchange, methods: Iterable[bytes]) -> None:
    """204 with what is allowed, or 403 where the origin is not."""
    config, head = exchange.config.grpc, exchange.head
    allowed = _allow_origin(config, head)
    varies = (b"vary", b"origin, access-control-request-headers")
    if allowed is None:
        text = b"this origin may not call here; add it to grpc.cors_origins\n"
        length = (b"content-length", b"%d" % len(text))
        exchange.write_head(403, ((b"content-type", b"text/plain; charset=utf-8"), length, varies))
        exchange.write(text, end=True)
    else:
        requested = head.header(b"access-control-request-headers")
        answer = [
            (b"access-control-allow-origin", allowed),
            (b"access-control-allow-methods", b", ".join(methods)),
            (b"access-control-max-age", b"%d" % min(config.cors_max_age, _LONG)),
            varies,
        ]
        if requested:
            answer.append((b"access-control-allow-headers", requested))
        exchange.write_head(204, answer, end=True)
    exchange.flush()


def _allow_origin(config: GrpcConfig, head: RequestHead) -> bytes | None:
    origin = head.header(b"origin")
    if origin is None:
        return None
    if "*" in config.cors_origins:
        return b"*"
    return origin if origin.decode("latin-1") in config.cors_origins else None
