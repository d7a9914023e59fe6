"""The client when connections are lost: policies, callbacks, states, and stateful reconnect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from engine import Hub, HubConnection
from engine.config import Config
from engine.errors import ConnectionClosed
from engine.signalr.client.connection import HubConnectionState
from engine.signalr.client.retry import RetryContext, after_delays
from tests.signalr.client.client_peer import URL, RawPeer, cut, hub_dial, scripted
from tests.signalr.hub_peer import HubHost


async def offer(peer: RawPeer) -> None:
    await peer.offer()


async def one_call(peer: RawPeer) -> None:
    """Agree, take one message, and go away without a word."""
    await peer.accept_websocket()
    await peer.handshake()
    await peer.frame()


async def stay(peer: RawPeer) -> None:
    await peer.accept_websocket()
    await peer.handshake()
    while (await peer.frame())[0] == 1:
        pass


async def test_a_lost_connection_comes_back_with_a_new_id(autojump_clock):
    log: list[Any] = []
    async with (
        scripted(offer, one_call, offer, stay) as dial,
        HubConnection(URL, dial=dial, automatic_reconnect=True) as hub,
    ):
        hub.on_reconnecting(lambda error: log.append(("reconnecting", type(error), hub.state)))

        async def reconnected(connection_id: str | None) -> None:
            await hub.send("JoinGroup", "again")
            log.append(("reconnected", connection_id, hub.state))
            done.set()

        done = trio.Event()
        hub.on_reconnected(reconnected)
        hub.on_closed(lambda error: log.append(("closed", error)))
        with pytest.raises(ConnectionClosed):
            await hub.invoke("Never")
        await hub.wait_state(HubConnectionState.CONNECTED)
        await hub.send("Again")
        await done.wait()
        assert hub.close_error is None
    assert log == [
        ("reconnecting", ConnectionClosed, HubConnectionState.RECONNECTING),
        ("reconnected", "I", HubConnectionState.CONNECTED),
        ("closed", None),
    ]


async def test_the_default_policy_tries_at_once_then_after_2_10_and_30_seconds(autojump_clock):
    attempts: list[float] = []
    async with scripted(offer, one_call) as dial:

        async def watched(origin: Any, context: Any) -> Any:
            attempts.append(trio.current_time())
            return await dial(origin, context)

        async with HubConnection(URL, dial=watched, automatic_reconnect=True) as hub:
            await hub.send("Bye")
            await hub.wait_state(HubConnectionState.RECONNECTING)
            with pytest.raises(ConnectionClosed, match="Reconnecting"):
                await hub.invoke("Never")
            lost = trio.current_time()
            await hub.wait_state(HubConnectionState.DISCONNECTED)
            assert "refused" in str(hub.close_error)
    assert [each - lost for each in attempts[2:]] == pytest.approx([0, 2, 12, 42])


async def test_a_policy_of_the_users_decides(autojump_clock):
    asked: list[RetryContext] = []

    def policy(context: RetryContext) -> float | None:
        asked.append(context)
        return 5.0 if len(asked) < 3 else None

    async with scripted(offer, one_call) as dial, HubConnection(URL, dial=dial, reconnect_policy=policy) as hub:
        await hub.send("Bye")
        await hub.wait_state(HubConnectionState.RECONNECTING)
        await hub.wait_state(HubConnectionState.DISCONNECTED)
    assert [each.previous_retry_count for each in asked] == [0, 1, 2]
    assert [each.elapsed for each in asked] == pytest.approx([0, 5, 10])
    assert "refused" in str(asked[-1].reason)
    assert [after_delays([1.5])(RetryContext(count, 0, None)) for count in (0, 1)] == [1.5, None]


@pytest.mark.parametrize(("goodbye", "comes_back"), [('{"type":7,"allowReconnect":true}', True), ('{"type":7}', False)])
async def test_the_server_says_whether_to_come_back(goodbye, comes_back, autojump_clock):
    async def leave(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await peer.handshake()
        await peer.send(goodbye + "\x1e")
        await peer.frame()

    async with (
        scripted(offer, leave, offer, stay) as dial,
        HubConnection(URL, dial=dial, automatic_reconnect=True) as hub,
    ):
        states = await hub.wait_state(HubConnectionState.RECONNECTING, HubConnectionState.DISCONNECTED)
        assert states is (HubConnectionState.RECONNECTING if comes_back else HubConnectionState.DISCONNECTED)


async def test_leaving_the_block_ends_the_waiting_for_a_reconnection(autojump_clock):
    async with scripted(offer, one_call) as dial:
        async with HubConnection(URL, dial=dial, reconnect_policy=lambda context: 1000.0) as hub:
            await hub.send("Bye")
            await hub.wait_state(HubConnectionState.RECONNECTING)
            began = trio.current_time()
        assert trio.current_time() - began < 1
        assert hub.state is HubConnectionState.DISCONNECTED


# -- stateful reconnect -------------------------------------------------------------


class CountingHub(Hub):
    calls = 0

    def count(self) -> int:
        CountingHub.calls += 1
        return CountingHub.calls

    async def tell(self, count: int) -> None:
        for number in range(count):
            await self.clients.caller.send("Number", number)
            await trio.sleep(0.01)

    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
            await trio.sleep(0.01)


@asynccontextmanager
async def stateful(**options: Any) -> AsyncIterator[tuple[HubConnection, list[trio.StapledStream], HubHost]]:
    CountingHub.calls = 0
    streams: list[trio.StapledStream] = []
    async with trio.open_nursery() as nursery:
        host = HubHost(nursery, Config())
        host.mount(CountingHub)
        dial = hub_dial(host, streams)
        async with HubConnection(URL, dial=dial, stateful_reconnect=True, **options) as hub:
            yield hub, streams, host
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_cuts_lose_nothing_double_nothing_and_keep_the_id(protocol, autojump_clock):
    received: list[int] = []
    async with stateful(protocol=protocol) as (hub, streams, _), trio.open_nursery() as nursery:
        hub.on("Number", received.append)
        connection_id = hub.connection_id

        async def cut_often() -> None:
            for _ in range(8):
                await trio.sleep(0.071)
                cut(streams[-1])

        nursery.start_soon(cut_often)
        async with hub.stream("Numbers", 40) as items:
            streamed = [each async for each in items]
        await hub.invoke("Tell", 40)
        counts = [await hub.invoke("Count") for _ in range(5)]
        await trio.sleep(5)
        assert hub.connection_id == connection_id
    assert streamed == list(range(40))
    assert received == list(range(40))
    assert counts == [1, 2, 3, 4, 5]
    assert len(streams) >= 9


async def test_what_is_called_during_a_cut_arrives_once(autojump_clock):
    async with stateful() as (hub, streams, _):
        assert await hub.invoke("Count") == 1
        cut(streams[-1])
        assert [await hub.invoke("Count") for _ in range(3)] == [2, 3, 4]


async def test_when_resuming_fails_a_new_connection_is_made(autojump_clock):
    async with stateful(automatic_reconnect=True) as (hub, streams, host):
        before = hub.connection_id
        endpoint = host.endpoints["/hub"]
        for ticket in list(endpoint._tickets._open.values()):
            endpoint._tickets.close(ticket)
        cut(streams[-1])
        await hub.wait_state(HubConnectionState.RECONNECTING)
        await hub.wait_state(HubConnectionState.CONNECTED)
        assert hub.connection_id != before
        assert await hub.invoke("Count") == 1


async def resumable(peer: RawPeer) -> None:
    await peer.offer(useStatefulReconnect=True)


async def test_the_second_socket_begins_with_sequence_and_repeats_what_was_not_acknowledged(autojump_clock):
    seen: list[Any] = []

    async def first(peer: RawPeer) -> None:
        await peer.accept_websocket()
        seen.append(await peer.handshake())
        await peer.messages()
        await peer.send('{"type":3,"invocationId":"0","result":1}\x1e{"type":8,"sequenceId":1}\x1e')
        await peer.messages()
        await peer.send('{"type":1,"target":"Number","argum')  # half a message before the cut

    async def second(peer: RawPeer) -> None:
        seen.append((await peer.accept_websocket())["target"])
        seen.append(await peer.messages())
        await peer.send('{"type":1,"target":"Number","arguments":[9]}\x1e')  # before Sequence: not listened to
        await peer.send('{"type":9,"sequenceId":1}\x1e{"type":3,"invocationId":"0","result":1}\x1e')
        await peer.send('{"type":3,"invocationId":"1","result":2}\x1e')
        seen.append(await peer.messages())
        await peer.frame()

    received: list[int] = []
    async with (
        scripted(resumable, first, second) as dial,
        HubConnection(URL, dial=dial, stateful_reconnect=True) as hub,
    ):
        hub.on("Number", received.append)
        assert await hub.invoke("A") == 1
        assert await hub.invoke("B") == 2
        await trio.sleep(3)
    handshake, target, resumed, ack = seen
    assert handshake == {"protocol": "json", "version": 2}
    assert target == "/hub?id=T"
    assert resumed == [
        {"type": 9, "sequenceId": 2},
        {"type": 1, "invocationId": "1", "target": "B", "arguments": []},
    ]
    assert ack == [{"type": 8, "sequenceId": 2}]
    assert received == []


async def test_a_sequence_that_tells_of_lost_messages_ends_the_connection(autojump_clock):
    async def first(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await peer.handshake()

    async def second(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await peer.messages()
        await peer.send('{"type":9,"sequenceId":7}\x1e')
        await peer.frame()

    async with (
        scripted(resumable, first, second) as dial,
        HubConnection(URL, dial=dial, stateful_reconnect=True) as hub,
    ):
        await hub.wait_state(HubConnectionState.DISCONNECTED)
        assert "Sequence ID greater than amount of messages" in str(hub.close_error)


async def test_a_server_that_drops_every_socket_is_not_asked_for_ever(autojump_clock):
    async def drop(peer: RawPeer) -> None:
        await peer.accept_websocket()

    async def first(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await peer.handshake()

    async with scripted(resumable, first, *[drop] * 50) as dial:
        async with HubConnection(URL, dial=dial, stateful_reconnect=True) as hub:
            await hub.wait_state(HubConnectionState.DISCONNECTED)
        await dial(None, None)  # type: ignore[arg-type]  # there is a script left


async def test_senders_wait_for_the_server_to_acknowledge(autojump_clock):
    acknowledge = trio.Event()

    async def serve(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await peer.handshake()
        await peer.frame()
        await acknowledge.wait()
        await peer.send('{"type":8,"sequenceId":1}\x1e')
        await peer.frame()
        await peer.frame()

    async with scripted(resumable, serve) as dial, HubConnection(URL, dial=dial, stateful_reconnect=True) as hub:
        await hub.send("Big", "x" * 100_000)
        with trio.move_on_after(5) as scope:
            await hub.send("Small")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.send, "Small")
            nursery.start_soon(hub.send, "Small")
            await trio.testing.wait_all_tasks_blocked()
            acknowledge.set()
