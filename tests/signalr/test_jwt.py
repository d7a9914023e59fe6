"""JSON Web Tokens through PyJWT."""

from __future__ import annotations

import time
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.signalr.auth import JwtAuthenticator, User
from engine.transport.exchange import RequestHead

jwt = pytest.importorskip("jwt", reason="install the package pyjwt, the extra jwt")

KEY = "a secret of at least thirty-two bytes"


def head_of(token: str) -> RequestHead:
    return RequestHead("GET", "/", "", "http", "x", ((b"authorization", b"Bearer " + token.encode()),), "1.1")


def user_of(claims: dict[str, Any], key: str = KEY, algorithm: str = "HS256", **options: Any) -> User | None:
    return JwtAuthenticator(KEY, ["HS256"], **options)(head_of(jwt.encode(claims, key, algorithm=algorithm)))


def test_a_valid_token_is_a_user_with_claims_and_an_end() -> None:
    expires = int(time.time()) + 60
    user = user_of({"sub": "ada", "role": "admin", "exp": expires})
    assert user is not None
    assert (user.id, user.claims["role"], user.expires) == ("ada", "admin", expires)
    assert user_of({"sub": "ada"}) == User("ada", {"sub": "ada"}, None)
    other = user_of({"uid": "7"}, user_claim="uid")
    assert other is not None
    assert other.id == "7"


def test_the_leeway_is_part_of_the_time_that_is_left() -> None:
    expires = int(time.time()) - 5
    user = user_of({"sub": "ada", "exp": expires}, leeway=60)
    assert user is not None
    assert user.expires == expires + 60


@pytest.mark.parametrize(
    ("claims", "options"),
    [
        ({"sub": "ada", "exp": 1}, {}),
        ({"sub": "ada", "nbf": 2**40}, {}),
        ({"sub": "ada"}, {"key": "another secret of thirty-two bytes !"}),
        ({"sub": "ada"}, {"algorithm": "HS512", "key": KEY * 2}),
        ({"sub": "ada"}, {"audience": "us"}),
        ({"sub": "ada", "aud": "them"}, {"audience": "us"}),
        ({"sub": "ada", "aud": "them"}, {}),
        ({"sub": "ada", "iss": "them"}, {"issuer": "us"}),
    ],
)
def test_any_other_token_is_nobodys(claims: dict[str, Any], options: dict[str, Any]) -> None:
    assert user_of(claims, **options) is None


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ."])
def test_malformed_and_unsigned_tokens_are_nobodys(token: str) -> None:
    assert JwtAuthenticator(KEY)(head_of(token)) is None


def test_algorithms_must_be_named_and_sign() -> None:
    for algorithms in ((), ("none",), "HS256"):
        with pytest.raises(ConfigError, match="algorithms"):
            JwtAuthenticator(KEY, algorithms)
