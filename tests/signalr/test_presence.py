"""Who is connected, as hubs and outside code ask it; background tasks of a connection; contexts of mounted hubs."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.app import App
from engine.errors import ConfigError, LimitExceeded
from engine.signalr import presence
from engine.signalr.hub import Hub, HubContext
from engine.signalr.presence import PresenceChange
from tests.signalr.hub_peer import HubClient, HubHost, hosting


class RoomHub(Hub):
    errors: ClassVar[list[BaseException]] = []

    async def my_id(self) -> str:
        return self.context.connection_id

    async def join(self, group: str) -> int:
        await self.groups.add(self.context.connection_id, group)
        return await self.presence.count(group=group)

    async def leave(self, group: str) -> None:
        await self.groups.remove(self.context.connection_id, group)

    async def start(self) -> None:
        self.context.start_soon(self.tick, self.clients.caller)

    async def fail(self) -> None:
        async def broken() -> None:
            raise ValueError("in the background")

        self.context.start_soon(broken)

    async def tick(self, caller: Any) -> None:
        try:
            await caller.send("Tick", 1)
            await trio.sleep_forever()
        except trio.Cancelled as error:
            self.errors.append(error)
            raise


def user_of(head: Any) -> str | None:
    value = head.header(b"x-user")
    return None if value is None else value.decode()


async def join(host: HubHost, user: str | None, *groups: str) -> tuple[HubClient, str]:
    client = await host.connect(**({} if user is None else {"X_User": user}))
    own_id = (await client.call("MyId"))["result"]
    for group in groups:
        await client.call("Join", group)
    return client, own_id


async def test_connections_of_groups_and_users_are_known() -> None:
    async with hosting(RoomHub, user_id=user_of) as host:
        _, ada = await join(host, "ada", "cats", "dogs")
        _, ada_too = await join(host, "ada", "cats")
        _, bob = await join(host, "bob", "dogs")
        _, nobody = await join(host, None)
        there = host.endpoints["/hub"].context.presence
        assert await there.connections() == [ada, ada_too, bob, nobody]
        assert await there.connections(group="cats") == [ada, ada_too]
        assert await there.connections(user_id="ada") == [ada, ada_too]
        assert await there.connections(group="dogs", user_id="ada") == [ada]
        assert await there.users() == ["ada", "bob"]
        assert await there.users(group="dogs") == ["ada", "bob"]
        assert await there.groups(ada) == ["cats", "dogs"]
        assert (await there.count(), await there.count(group="dogs"), await there.count(user_id="x")) == (4, 2, 0)
        assert await there.is_online("bob")
        assert not await there.is_online("x")
        assert (await there.connections(group="x"), await there.groups("x")) == ([], [])


async def test_a_hub_asks_the_same() -> None:
    async with hosting(RoomHub) as host:
        await join(host, None, "cats")
        client, _ = await join(host, None)
        assert (await client.call("Join", "cats"))["result"] == 2


async def test_changes_of_a_group_and_of_connections_are_watched() -> None:
    async with hosting(RoomHub, user_id=user_of) as host:
        there = host.endpoints["/hub"].context.presence
        with there.watch(group="cats") as of_cats, there.watch() as of_all, there.watch(user_id="bob") as of_bob:
            client, own_id = await join(host, "ada", "cats", "dogs")
            await client.call("Join", "cats")  # is one already: no change
            await client.call("Leave", "cats")
            await client.call("Join", "cats")
            await client.close()
            await trio.testing.wait_all_tasks_blocked()
            changes = [await anext(of_cats) for _ in range(4)]
            assert [each.change.value for each in changes] == ["joined", "left", "joined", "left"]
            assert {(each.connection_id, each.user_id, each.group) for each in changes} == {(own_id, "ada", "cats")}
            assert [(await anext(of_all)).change for _ in range(2)] == [
                PresenceChange.CONNECTED,
                PresenceChange.DISCONNECTED,
            ]
            for watch in (of_cats, of_all, of_bob):
                with trio.move_on_after(0):
                    raise AssertionError(await anext(watch))


async def test_a_watcher_that_does_not_look_is_told_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_WAITING", 2)
    async with hosting(RoomHub) as host:
        there = host.endpoints["/hub"].context.presence
        with there.watch(group="g") as watch:
            client, _ = await join(host, None, "g")
            for _ in range(3):
                await client.call("Leave", "g")
                await client.call("Join", "g")
            assert [(await anext(watch)).change.value for _ in range(2)] == ["joined", "left"]
            with pytest.raises(LimitExceeded, match="presence changes"):
                await anext(watch)
            await client.call("Leave", "g")
            assert (await anext(watch)).change is PresenceChange.LEFT


async def test_a_background_task_lives_as_long_as_its_connection() -> None:
    RoomHub.errors.clear()
    async with hosting(RoomHub) as host:
        client, _ = await join(host, None)
        await client.invoke("Start")
        assert {(await client.message()).get("target"), (await client.message()).get("target")} == {"Tick", None}
        assert not RoomHub.errors
        await client.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert len(RoomHub.errors) == 1


async def test_a_background_task_that_fails_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with hosting(RoomHub) as host:
        client, _ = await join(host, None)
        await client.call("Fail")
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.call("MyId"))["result"]
    assert "in the background" in caplog.text


async def test_a_background_task_of_on_connected_starts_as_well() -> None:
    class Welcoming(Hub):
        async def on_connected(self) -> None:
            self.context.start_soon(self.clients.caller.send, "Welcome")

    async with hosting(Welcoming) as host:
        client = await host.connect()
        assert (await client.message())["target"] == "Welcome"


def test_a_hub_context_is_found_by_class_or_path() -> None:
    class Once(Hub): ...

    class Twice(Hub): ...

    app = App()
    app.hub("/once")(Once)
    app.hub("/a")(Twice)
    app.hub("/b")(Twice)
    assert isinstance(app.hub_context(Once), HubContext)
    assert app.hub_context("/once") is app.hub_context(Once)
    assert app.hub_context("/a") is not app.hub_context("/b")
    with pytest.raises(ConfigError, match="mounted at /a, /b; give a path"):
        app.hub_context(Twice)
    with pytest.raises(ConfigError, match="not mounted; known: /once, /a, /b"):
        app.hub_context("/c")
