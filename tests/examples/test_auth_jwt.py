"""The example that signs in: what it says is what it does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.interop.server_process import ServerProcess

pytest.importorskip("jwt", reason="install the package pyjwt, the extra jwt")

END = "\x1e"


def post(url: str, body: bytes = b"", token: str = "") -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST"), timeout=20) as answer:
        return answer.read().decode()


def call(socket: Any, target: str, *arguments: object) -> Any:
    socket.send(json.dumps({"type": 1, "invocationId": "1", "target": target, "arguments": arguments}) + END)
    return json.loads(str(socket.recv(timeout=20)).removesuffix(END))


def test_users_sign_in_have_roles_and_whisper(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("examples.auth_jwt:app")
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{server.url}/vault/negotiate?negotiateVersion=1")
    assert refused.value.code == 401
    refused.value.close()
    ada, eve = (post(f"{server.url}/login", name) for name in (b"ada", b"eve"))
    offer = json.loads(post(f"{server.url}/vault/negotiate?negotiateVersion=1", token=eve))
    assert 590 < offer["tokenLifetimeSeconds"] <= 600
    hub = f"{server.websocket_url}/vault"
    with (
        connect(f"{hub}?id={offer['connectionToken']}&access_token={eve}", proxy=None) as guest,
        connect(hub, additional_headers={"Authorization": f"Bearer {ada}"}, proxy=None) as admin,
    ):
        for socket in (guest, admin):
            socket.send(json.dumps({"protocol": "json", "version": 1}) + END)
            assert socket.recv(timeout=20) == "{}" + END
        assert call(guest, "WhoAmI")["result"] == "eve"
        assert "only admins have the key" in call(guest, "OpenDoor")["error"]
        assert call(admin, "OpenDoor")["result"] == "open"
        assert json.loads(str(guest.recv(timeout=20)).removesuffix(END))["target"] == "DoorOpened"
        call(guest, "Whisper", "ada", "psst")
        assert '"eve","psst"' in str(admin.recv(timeout=20))
        refreshed = json.loads(post(f"{server.url}/vault/refresh?id={offer['connectionToken']}", token=eve))
        assert refreshed["connectionId"] == offer["connectionId"]
