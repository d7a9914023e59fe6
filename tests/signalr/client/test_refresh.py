"""A new token for a connection that is open, before the old one expires."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from engine import HubConnection, HubConnectionState
from engine.signalr.client.refresh import refresh_url
from tests.signalr.client.client_peer import URL, RawPeer, Script, scripted


def offering(lifetime: Any) -> Script:
    async def offer(peer: RawPeer) -> None:
        await peer.offer(tokenLifetimeSeconds=lifetime)

    return offer


async def open_hub(peer: RawPeer) -> None:
    await peer.accept_websocket()
    await peer.handshake()
    while True:
        await peer.frame()
        await peer.send('{"type":6}\x1e')


def test_the_url_is_that_of_the_connection():
    assert refresh_url("http://h/hub?a=b&id=T") == "http://h/hub/refresh?a=b&id=T"


@pytest.mark.parametrize(
    ("lifetimes", "times"),
    [
        ([3600, 3600, None], [3300, 6600]),  # five minutes before the end
        ([500, 60, None], [250, 280]),  # at half of a short life
        ([0.1, -5, None], [1, 2]),  # nonsense
        ([1000, 401], [700]),  # refused, and not tried again
        ([1000, "soon"], [700]),  # no answer at all
    ],
)
async def test_it_is_sent_in_time(lifetimes, times, autojump_clock):
    asked: list[tuple[float, str, str]] = []
    tokens = iter("abcdef")
    began = trio.current_time()

    def answering(lifetime: Any) -> Script:
        async def script(peer: RawPeer) -> None:
            method, target, fields, _ = await peer.request()
            asked.append((trio.current_time() - began, f"{method} {target}", fields["authorization"]))
            if lifetime == 401:
                await peer.answer(403, "no")
            else:
                await peer.answer(200, json.dumps({"connectionId": "I", "tokenLifetimeSeconds": lifetime}))

        return script

    scripts = [offering(lifetimes[0]), open_hub, *map(answering, lifetimes[1:])]
    async with (
        scripted(*scripts) as dial,
        HubConnection(f"{URL}?a=b", dial=dial, access_token=lambda: next(tokens)) as hub,
    ):
        await trio.sleep(20_000)
        assert hub.state is HubConnectionState.CONNECTED
    assert [time for time, _, _ in asked] == pytest.approx(times)
    assert {what for _, what, _ in asked} == {"POST /hub/refresh?a=b&id=T"}
    assert [token for _, _, token in asked] == ["Bearer b", "Bearer c"][: len(times)]


async def test_a_token_that_cannot_be_made_anew_is_not_sent_again(autojump_clock):
    async with scripted(offering(100), open_hub) as dial, HubConnection(URL, dial=dial, access_token="fixed") as hub:
        await trio.sleep(1000)
        assert hub.state is HubConnectionState.CONNECTED
