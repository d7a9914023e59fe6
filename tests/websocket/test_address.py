"""What a WebSocket URL means, and where a redirect leads."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.websocket.address import Address, follow, parse_address


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("ws://example.com", Address(False, "example.com", 80, "/"), "example.com"),
        ("WSS://Example.com/", Address(True, "example.com", 443, "/"), "example.com"),
        ("http://example.com:80/a", Address(False, "example.com", 80, "/a"), "example.com"),
        ("https://example.com:8443?x=y", Address(True, "example.com", 8443, "/?x=y"), "example.com:8443"),
        ("ws://[::1]:81/a%20b/ü?q=ü&r=%41", Address(False, "::1", 81, "/a%20b/%C3%BC?q=%C3%BC&r=%41"), "[::1]:81"),
        ("ws://bücher.example/", Address(False, "xn--bcher-kva.example", 80, "/"), "xn--bcher-kva.example"),
        ("ws+unix:///run/my%20app.sock", Address(False, "localhost", 80, "/", "/run/my app.sock"), "localhost"),
        ("ws+unix:///run/app.sock:/p?q=1", Address(False, "localhost", 80, "/p?q=1", "/run/app.sock"), "localhost"),
        ("ws://a:b%40c@x/", Address(False, "x", 80, "/", None, "Basic YTpiQGM="), "x"),
    ],
)
def test_a_url_is_read(url: str, address: Address, authority: str) -> None:
    assert parse_address(url) == address
    assert parse_address(url).authority == authority


def test_a_unix_socket_may_be_given_beside_the_url() -> None:
    assert parse_address("wss://example.com/a", "/run/x").unix == "/run/x"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "ws://",
        "ws:///path",
        "ws://x:99999/",
        "ws://x:y/",
        "ws://x/#fragment",
        "ws://x/#",
        "ws://x/a b",
        "ws://x/\r\nhost: y",
        "ws+unix://",
        "ws://" + "ü" * 100 + "/",
    ],
)
def test_what_is_no_such_url_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(url)


def test_an_error_shows_no_password() -> None:
    with pytest.raises(ConfigError) as error:
        parse_address("ftp://user:secret@example.com/")
    assert "secret" not in str(error.value)
    assert "secret" not in parse_address("ws://user:secret@example.com/").url


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b", "wss://x:444/b"),
        ("b?c", "wss://x:444/a/b?c"),
        ("https://y/", "wss://y/"),
        ("wss://y/", "wss://y/"),
        ("//y/z#part", "wss://y/z"),
    ],
)
def test_a_redirect_leads_to(location: str, url: str) -> None:
    assert follow(parse_address("wss://x:444/a/here"), location).url == url


@pytest.mark.parametrize("location", ["http://x:444/", "ws://y/", "mailto:x", "javascript:1", "ws+unix:///run/x:/"])
def test_a_redirect_is_not_followed_to(location: str) -> None:
    with pytest.raises(ConfigError):
        follow(parse_address("wss://x:444/a/here"), location)


def test_a_redirect_does_not_lead_away_from_a_unix_socket_nor_to_one() -> None:
    here = parse_address("ws+unix:///run/x:/a")
    assert follow(here, "/b").url == "ws+unix:///run/x:/b"
    with pytest.raises(ConfigError):
        follow(here, "ws://example.com/")
    with pytest.raises(ConfigError):
        follow(parse_address("ws://x/"), "ws+unix:///run/x:/a")
