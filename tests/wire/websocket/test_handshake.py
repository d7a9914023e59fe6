"""Which requests become a WebSocket (RFC 6455 section 4.2.1, RFC 8441 section 5)."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.websocket.extensions import Offer
from engine.wire.websocket.handshake import Accepted, Refusal, accept_token, check_connect, check_upgrade, is_token

GOOD = {
    b"host": b"example.com",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-version": b"13",
}


def upgrade(
    *more: tuple[bytes, bytes], method: str = "GET", version: str = "1.1", **changed: bytes | None
) -> Accepted | Refusal:
    """Judge the good request with fields changed (None: left out) or added."""
    fields = dict(GOOD)
    for name, value in changed.items():
        key = name.replace("_", "-").encode()
        if value is None:
            fields.pop(key, None)
        else:
            fields[key] = value
    return check_upgrade(method, version, [*fields.items(), *more])


def status(answer: Accepted | Refusal) -> int:
    return answer.status if isinstance(answer, Refusal) else 101


def test_the_rfcs_own_example_is_accepted() -> None:
    assert upgrade() == Accepted((), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", ())


def test_accept_token_is_that_of_the_rfc() -> None:
    assert accept_token(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "OPTIONS", "CONNECT"])
def test_other_methods_are_405_with_allow(method: str) -> None:
    answer = upgrade(method=method)
    assert isinstance(answer, Refusal)
    assert (answer.status, answer.headers) == (405, ((b"allow", b"GET"),))


@pytest.mark.parametrize("changed", [{"upgrade": None}, {"upgrade": b"h2c"}, {"upgrade": b"websocket2"}])
def test_no_upgrade_to_websocket_is_426_with_the_version(changed: dict[str, bytes | None]) -> None:
    answer = upgrade(**changed)
    assert isinstance(answer, Refusal)
    assert answer.status == 426
    assert dict(answer.headers) == {
        b"upgrade": b"websocket",
        b"connection": b"upgrade",
        b"sec-websocket-version": b"13",
    }


def test_http_1_0_cannot_upgrade() -> None:
    # wsproto accepts it
    assert status(upgrade(version="1.0")) == 426


def test_a_plain_get_over_http2_is_426_without_the_forbidden_upgrade_field() -> None:
    answer = check_upgrade("GET", "2", [])
    assert isinstance(answer, Refusal)
    assert (answer.status, answer.headers) == (426, ((b"sec-websocket-version", b"13"),))


@pytest.mark.parametrize("value", [None, b"8", b"0", b"14", b"013", b"thirteen", b"\xff", b"13, 8"])
def test_another_version_is_426_with_the_version(value: bytes | None) -> None:
    answer = upgrade(sec_websocket_version=value)
    assert isinstance(answer, Refusal)
    assert answer.status == 426
    assert dict(answer.headers)[b"sec-websocket-version"] == b"13"


@pytest.mark.parametrize("value", [None, b"keep-alive", b"close"])
def test_a_connection_field_without_upgrade_is_400(value: bytes | None) -> None:
    assert status(upgrade(connection=value)) == 400


def test_tokens_are_compared_without_case_and_found_in_lists() -> None:
    assert status(upgrade(upgrade=b"WebSocket", connection=b"keep-alive, UPGRADE")) == 101
    # wsproto refuses the list
    assert status(upgrade(upgrade=b"h2c, websocket")) == 101
    assert status(upgrade(upgrade=b"HTTP/2.0,\twebsocket ,")) == 101


def test_every_one_of_several_fields_counts() -> None:
    # In wsproto the last one wins.
    assert status(upgrade((b"connection", b"keep-alive"), (b"upgrade", b"h2c"))) == 101
    assert (
        status(upgrade((b"connection", b"Upgrade"), (b"upgrade", b"websocket"), connection=b"x", upgrade=b"y")) == 101
    )


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"short",
        base64.b64encode(bytes(15)),
        base64.b64encode(bytes(17)),
        base64.b64encode(bytes(32)),
        b"dGhlIHNhbXBsZSBub25jZQ=",
        b"dGhlIHNhbXBsZSBub25jZQ===",
        b"dGhlIHNhbXBsZSBub25jZ!==",
        b"dGhlIHNhbXBsZSBub25jZ\xff==",
        b"dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
    ],
)
def test_a_key_that_is_not_16_bytes_in_base64_is_400(key: bytes | None) -> None:
    # wsproto accepts any length
    assert status(upgrade(sec_websocket_key=key)) == 400


def test_two_keys_are_400_even_if_equal() -> None:
    # wsproto answers one of them
    assert status(upgrade((b"sec-websocket-key", GOOD[b"sec-websocket-key"]))) == 400


@pytest.mark.parametrize("more", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
def test_a_handshake_with_a_body_is_400(more: tuple[bytes, bytes]) -> None:
    assert status(upgrade(more)) == 400


def test_content_length_0_is_no_body() -> None:
    assert status(upgrade((b"content-length", b"0"))) == 101


def test_subprotocols_are_the_clients_in_order_over_all_fields_without_repetitions() -> None:
    answer = upgrade((b"sec-websocket-protocol", b"b, c"), sec_websocket_protocol=b"a,, b ")
    assert isinstance(answer, Accepted)
    assert answer.subprotocols == ("a", "b", "c")


@pytest.mark.parametrize("name", ["connection", "upgrade", "sec_websocket_protocol", "sec_websocket_extensions"])
@pytest.mark.parametrize("byte", [b"\xff", b"\x80", b"\x00", b"\x1b"])
def test_a_byte_that_no_token_has_is_400_in_every_field(name: str, byte: bytes) -> None:
    # Each of these ends the process of a server that lets wsproto's UnicodeDecodeError through.
    field = GOOD.get(name.encode(), b"a")
    assert status(upgrade(**{name: field + b", x" + byte})) == 400
    assert status(upgrade(**{name: byte})) == 400


@pytest.mark.parametrize("value", [b"a b", b"a;b", b'"a"', b"a,b/c"])
def test_a_subprotocol_that_is_no_token_is_400(value: bytes) -> None:
    assert status(upgrade(sec_websocket_protocol=value)) == 400


def test_extension_offers_are_read_in_order_from_all_fields() -> None:
    answer = upgrade((b"sec-websocket-extensions", b"second"), sec_websocket_extensions=b'x; q="a, b", y;z=1')
    assert isinstance(answer, Accepted)
    assert answer.extensions == (Offer("x", (("q", "a, b"),)), Offer("y", (("z", "1"),)), Offer("second"))


@pytest.mark.parametrize("value", [b"a b", b"a;", b"a;=1", b"a;b=", b'a;b="c', b"a;b=(c)", b";b", b'"a"'])
def test_extensions_that_break_the_grammar_are_400(value: bytes) -> None:
    assert status(upgrade(sec_websocket_extensions=value)) == 400


def test_a_malformed_handshake_ends_its_connection_for_frames_may_follow_it() -> None:
    for answer in (upgrade(connection=b"keep-alive"), upgrade(sec_websocket_key=None), upgrade(connection=b"\xff")):
        assert isinstance(answer, Refusal)
        assert (b"connection", b"close") in answer.headers
    refused = check_connect([(b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"\xff")])
    assert isinstance(refused, Refusal)
    assert refused.headers == ()  # "MUST NOT" (RFC 9113 section 8.2.2)


def test_extended_connect_needs_no_key_and_gets_no_accept() -> None:
    fields = [(b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"a, b")]
    assert check_connect(fields) == Accepted(("a", "b"), None, ())


def test_extended_connect_ignores_a_key() -> None:
    assert isinstance(check_connect([*GOOD.items()]), Accepted)


def test_extended_connect_of_another_version_is_426_without_upgrade() -> None:
    answer = check_connect([(b"sec-websocket-version", b"8")])
    assert isinstance(answer, Refusal)
    assert (answer.status, answer.headers) == (426, ((b"sec-websocket-version", b"13"),))


def test_extended_connect_with_bad_bytes_is_400() -> None:
    assert status(check_connect([(b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"\xff")])) == 400


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*GOOD, b"sec-websocket-protocol", b"sec-websocket-extensions"]), st.binary(max_size=30)
        )
    )
)
def test_no_bytes_raise(fields: list[tuple[bytes, bytes]]) -> None:
    assert status(check_upgrade("GET", "1.1", [*GOOD.items(), *fields])) in (101, 400, 426)
    assert status(check_connect(fields)) in (101, 400, 426)


@pytest.mark.parametrize(
    ("name", "good"), [("a", True), ("graphql-ws", True), ("", False), ("a b", False), ("ü", False)]
)
def test_a_subprotocols_name_is_a_token(name: str, good: bool) -> None:
    assert is_token(name) is good
