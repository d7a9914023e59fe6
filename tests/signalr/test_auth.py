"""Who gets in: tokens, 401 and 403 on every request, claims, expiry, refresh, CORS."""

from __future__ import annotations

import json
import time
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.errors import ConfigError
from engine.signalr.auth import User, bearer_token
from engine.signalr.endpoint import HubEndpoint, Redirect
from engine.signalr.hub import Hub
from engine.transport.exchange import RequestHead
from tests.signalr.http_peer import HttpPeer
from tests.signalr.hub_peer import JSON_HANDSHAKE, HubHost, hosting

UPGRADE = {
    "connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13",
    "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


class SafeHub(Hub):
    refreshed: ClassVar[list[str | None]]

    async def who(self) -> list[Any]:
        user = self.context.user
        return [self.context.user_id, None if user is None else user.claims.get("role")]

    async def tell(self, user: str) -> None:
        await self.clients.user(user).send("Told")

    async def on_authentication_refreshed(self) -> None:
        self.refreshed.append(self.context.user.claims.get("role") if self.context.user else None)


def identify(head: RequestHead) -> User | None:
    """`NAME ROLE SECONDS`, the last two optional."""
    name, role, seconds = f"{bearer_token(head) or ''}..".split(".")[:3]
    if not name:
        return None
    return User(name, {"role": role}, time.time() + float(seconds) if seconds else None)


def safe(**options: Any) -> Any:
    SafeHub.refreshed = []
    return hosting(SafeHub, authenticator=identify, require_user=True, **options)


def head_of(query: str = "", *fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead("GET", "/", query, "http", "x", fields, "1.1")


def test_a_token_stands_in_the_field_or_in_the_query() -> None:
    assert bearer_token(head_of("", (b"authorization", b"Bearer abc"))) == "abc"
    assert bearer_token(head_of("access_token=q", (b"authorization", b"bearer  abc "))) == "abc"
    assert bearer_token(head_of("Access_Token=a%2Bb", (b"authorization", b"Basic abc"))) == "a+b"
    assert bearer_token(head_of("access_token=")) is None
    assert bearer_token(head_of()) is None


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("POST", "/hub/negotiate?negotiateVersion=1", {}),
        ("GET", "/hub/negotiate", {}),
        ("GET", "/hub", UPGRADE),
        ("GET", "/hub?id=x", {"accept": "text/event-stream"}),
        ("GET", "/hub?id=x", {}),
        ("POST", "/hub?id=x", {}),
        ("DELETE", "/hub?id=x", {}),
    ],
)
async def test_every_request_of_an_anonymous_caller_is_401(method: str, target: str, headers: dict[str, str]) -> None:
    async with safe() as host:
        answer = await HttpPeer(host).ask(method, target, **headers)
        assert (answer.status, answer.text) == (401, "")
        assert "content-type" not in answer.fields
        assert answer.fields["www-authenticate"] == "Bearer"


async def test_an_expired_user_is_an_anonymous_one() -> None:
    async with safe() as host:
        http = HttpPeer(host)
        assert (await http.ask("POST", "/hub/negotiate", authorization="Bearer ada.r.-1")).status == 401
        assert (await http.ask("POST", "/hub/negotiate", authorization="Bearer ada.r.9")).status == 200


async def test_a_user_that_may_not_is_403() -> None:
    async with safe(authorize=lambda user: user is not None and user.claims["role"] == "admin") as host:
        http = HttpPeer(host)
        assert (await http.ask("POST", "/hub/negotiate", authorization="Bearer ada.guest")).status == 403
        assert (await http.ask("POST", "/hub/negotiate", authorization="Bearer ada.admin")).status == 200
        assert (await http.ask("POST", "/hub/negotiate")).status == 401


async def test_a_hub_sees_the_user_and_clients_are_addressed_by_its_id() -> None:
    async with safe() as host:
        ada = await host.connect("/hub?access_token=ada.admin")
        bob = await host.connect("/hub", authorization="Bearer bob")
        assert (await ada.call("Who"))["result"] == ["ada", "admin"]
        assert (await bob.call("Who"))["result"] == ["bob", ""]
        await bob.invoke("Tell", "ada")
        assert (await ada.message())["target"] == "Told"
        await bob.invoke("Tell", "Ada")
        assert [(await bob.message())["type"] for _ in range(2)] == [3, 3]
        assert await ada.is_quiet()


async def test_an_authenticator_may_wait_and_may_know_nobody() -> None:
    async def slow(head: RequestHead) -> User | None:
        await trio.lowlevel.checkpoint()
        return identify(head)

    async with hosting(SafeHub, authenticator=slow) as host:
        assert (await (await host.connect("/hub?access_token=eve")).call("Who"))["result"][0] == "eve"
        assert (await (await host.connect("/hub")).call("Who"))["result"] == [None, None]


def test_to_require_users_without_an_authenticator_is_an_error_of_the_start() -> None:
    with pytest.raises(ConfigError, match="give an authenticator"):
        HubEndpoint(SafeHub, "/hub", require_user=True)


# -- expiry --------------------------------------------------------------------


async def test_a_connection_is_closed_when_its_authentication_expires(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with safe(close_on_authentication_expiration=True) as host:
        client = await host.connect("/hub?access_token=ada.r.5")
        started = trio.current_time()
        assert await client.record() == '{"type":7,"allowReconnect":true}'
        assert trio.current_time() - started == pytest.approx(5, abs=0.5)
        assert await client.record() is None
        assert client.close_code == 1000


async def test_it_lives_on_where_that_is_off(autojump_clock: trio.testing.MockClock) -> None:
    async with safe() as host:
        client = await host.connect("/hub?access_token=ada.r.5")
        assert await client.record() == '{"type":6}'


async def test_it_expires_in_the_handshake_too(autojump_clock: trio.testing.MockClock) -> None:
    async with safe(close_on_authentication_expiration=True) as host:
        client = await host.websocket("/hub?access_token=ada.r.5")
        assert await client.record() == '{"error":"Handshake was canceled."}'


async def test_a_poll_with_a_newer_token_prolongs_it(autojump_clock: trio.testing.MockClock) -> None:
    async with safe(close_on_authentication_expiration=True) as host:
        http = HttpPeer(host)
        offer = json.loads((await http.ask("POST", "/hub/negotiate", authorization="Bearer ada.old.5")).text)
        target = f"/hub?id={offer['connectionId']}"
        await http.ask("GET", target, authorization="Bearer ada.old.5")
        await http.ask("POST", target, JSON_HANDSHAKE, authorization="Bearer ada.old.5")
        assert (await http.ask("GET", target, authorization="Bearer ada.new.500")).text == "{}\x1e"
        await trio.sleep(10)
        call = '{"type":1,"invocationId":"7","target":"Who","arguments":[]}\x1e'
        await http.ask("POST", target, call, authorization="Bearer ada.new.500")
        assert '"result":["ada","new"]' in (await http.ask("GET", target, authorization="Bearer ada.new.500")).text
        assert (await http.ask("GET", target, authorization="Bearer eve")).status == 403


# -- refresh -------------------------------------------------------------------


async def refresh(host: HubHost, query: str, token: str = "", method: str = "POST") -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = await HttpPeer(host).ask(method, f"/hub/refresh{query}", **headers)
    return answer.status, json.loads(answer.text) if answer.text else None


async def test_new_credentials_replace_the_old_ones(autojump_clock: trio.testing.MockClock) -> None:
    async with safe(authentication_refresh=True, close_on_authentication_expiration=True) as host:
        answer = await HttpPeer(host).ask(
            "POST", "/hub/negotiate?negotiateVersion=1", authorization="Bearer ada.guest.5"
        )
        offer = json.loads(answer.text)
        assert offer["tokenLifetimeSeconds"] == 4
        token = offer["connectionToken"]
        client = await host.connect(f"/hub?id={token}&access_token=ada.guest.5")
        status, body = await refresh(host, f"?id={token}", "ada.admin.500")
        assert status == 200
        assert body["connectionId"] == offer["connectionId"]
        assert body["tokenLifetimeSeconds"] == 499
        assert body["refreshedAt"].endswith("Z")
        assert SafeHub.refreshed == ["admin"]
        await trio.sleep(10)
        assert (await client.call("Who"))["result"] == ["ada", "admin"]
        assert (await refresh(host, f"?id={token}", "ada"))[1].keys() == {"connectionId", "refreshedAt"}


async def test_a_refresh_is_refused_with_a_reason() -> None:
    async with safe(authentication_refresh=True) as host:
        answer = await HttpPeer(host).ask("POST", "/hub/negotiate?negotiateVersion=1", authorization="Bearer ada")
        token = json.loads(answer.text)["connectionToken"]
        await host.connect(f"/hub?id={token}&access_token=ada")
        for query, credentials, status, error, start in (
            ("", "ada", 400, "missing_connection_token", "The 'id' query string parameter is required."),
            ("?id=nobody", "ada", 404, "connection_not_found", "No active connection with the specified ID."),
            (f"?id={token}", "", 401, "invalid_token", "The credentials are"),
            (f"?id={token}", "ada.r.-1", 401, "invalid_token", "The credentials are"),
            (f"?id={token}", "eve", 403, "user_mismatch", "The credentials are"),
        ):
            got, body = await refresh(host, query, credentials)
            assert (got, body["error"]) == (status, error)
            assert body["error_description"].startswith(start)
        assert (await refresh(host, f"?id={token}", "ada", "GET"))[0] == 405
        assert SafeHub.refreshed == []


async def test_a_refresh_is_off_by_default() -> None:
    async with safe() as host:
        status, body = await refresh(host, "?id=x", "ada")
        assert (status, body["error"]) == (404, "refresh_disabled")


# -- other origins, and redirects ----------------------------------------------

PAGE = "https://page.example"


async def test_pages_of_other_origins_may_use_a_hub_that_names_them() -> None:
    async with hosting(SafeHub, cors_origins=(PAGE,)) as host:
        http = HttpPeer(host)
        asked = await http.ask(
            "OPTIONS", "/hub/negotiate", origin=PAGE, access_control_request_method="POST",
            access_control_request_headers="x-requested-with,x-signalr-user-agent",
        )  # fmt: skip
        assert asked.status == 204
        assert asked.fields["access-control-allow-headers"] == "x-requested-with,x-signalr-user-agent"
        for answer in (asked, await http.ask("POST", "/hub/negotiate", origin=PAGE)):
            assert answer.fields["access-control-allow-origin"] == PAGE
            assert answer.fields["access-control-allow-credentials"] == "true"
            assert answer.fields["vary"] == "Origin"
        token = json.loads((await http.ask("POST", "/hub/negotiate")).text)["connectionId"]
        events = await http.start("GET", f"/hub?id={token}", accept="text/event-stream", origin=PAGE)
        assert (await events.head()).fields["access-control-allow-origin"] == PAGE
        other = await http.ask("POST", "/hub/negotiate", origin="https://evil.example")
        assert "access-control-allow-origin" not in other.fields
        evil = await http.ask("GET", "/hub", origin="https://evil.example", **UPGRADE)
        assert evil.status == 403
        await host.connect("/hub", origin=PAGE)
        await host.connect("/hub", origin="http://x")  # the server's own


async def test_a_star_is_all_pages_without_credentials() -> None:
    async with hosting(SafeHub, cors_origins=("*",)) as host:
        answer = await HttpPeer(host).ask("POST", "/hub/negotiate", origin=PAGE)
        assert answer.fields["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.fields


async def test_a_preflight_is_a_plain_405_where_cors_is_off() -> None:
    async with hosting(SafeHub) as host:
        answer = await HttpPeer(host).ask("OPTIONS", "/hub", origin=PAGE, access_control_request_method="GET")
        assert answer.status == 405
        assert "vary" not in answer.fields


async def test_clients_may_be_sent_elsewhere_to_negotiate() -> None:
    def redirect(head: RequestHead) -> Redirect | str | None:
        return {"a": "http://a/hub", "b": Redirect("http://b/hub", "token")}.get(head.query)

    async with hosting(SafeHub, redirect=redirect) as host:
        http = HttpPeer(host)
        assert (await http.ask("POST", "/hub/negotiate?a")).text == '{"url":"http://a/hub"}'
        assert (await http.ask("POST", "/hub/negotiate?b")).text == '{"url":"http://b/hub","accessToken":"token"}'
        assert "connectionId" in (await http.ask("POST", "/hub/negotiate")).text


async def test_old_clients_may_be_refused() -> None:
    async with hosting(SafeHub, minimum_negotiate_version=1) as host:
        answer = await HttpPeer(host).ask("POST", "/hub/negotiate")
        assert "The client requested version '0'" in answer.text
