"""The conformance hub does what its contract says, where recorded conversations do not look."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from examples.conformance import hub
from examples.conformance.hub import ConformanceHub, identify, mount_all
from tests.signalr.hub_peer import HubClient, HubHost, hosting


@pytest.fixture(autouse=True)
def _fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "registry", hub.Registry())


@asynccontextmanager
async def mounted() -> AsyncIterator[HubHost]:
    async with hosting() as host:
        mount_all(host.app)
        yield host


async def join(host: HubHost, suffix: str = "", query: str = "", **headers: str) -> HubClient:
    return await host.connect(f"/conformance{suffix}{query}", **headers)


async def result(client: HubClient, target: str, *arguments: Any) -> Any:
    answer = await client.call(target, *arguments)
    assert "error" not in answer, answer
    return answer["result"]


async def test_simple_calls() -> None:
    async with mounted() as host:
        client = await join(host)
        for target, arguments, expected in [
            ("EchoThree", [1, None, "x"], [1, None, "x"]),
            ("Concat", ["a", "b"], "ab"),
            ("Utf8Length", ["é€😀"], 9),
            ("ReturnLarge", [5], "xxxxx"),
            ("Delay", [0], 0),
            ("RenamedMethod", [], "renamed"),
            ("GetTransport", [], "WebSockets"),
            ("GetItem", ["k"], None),
            ("SetItem", ["k", {"v": 1}], None),
            ("GetItem", ["k"], {"v": 1}),
            ("Increment", ["c"], None),
            ("GetCounter", ["c"], 1),
            ("GetCounter", ["nobody"], 0),
            ("Record", ["r", [1]], None),
            ("Record", ["r", "x"], None),
            ("GetRecord", ["r"], [[1], "x"]),
            ("GetEvents", ["nobody"], []),
        ]:
            assert await result(client, target, *arguments) == expected, target


async def test_a_call_blocks_until_anybody_releases_it() -> None:
    async with mounted() as host:
        client, other = await join(host), await join(host, "-big")
        await client.invoke("Block", "key")
        assert await client.is_quiet()
        await result(other, "Release", "key")
        assert (await client.message())["result"] == "key"


async def test_four_invocations_run_at_once_on_the_parallel_mount_and_one_elsewhere() -> None:
    async with mounted() as host:
        for suffix, at_once in (("", 1), ("-parallel", 4)):
            client = await join(host, suffix)
            for number in range(5):
                await client.invoke("Block", f"{suffix}{number}", invocation_id=str(number))
            other = await join(host)
            for number in range(at_once - 1, -1, -1):
                await result(other, "Release", f"{suffix}{number}")
                assert (await client.message())["invocationId"] == str(number)


@pytest.mark.parametrize("how", ["cancel", "cut"])
async def test_a_long_call_counts_its_cancellation(how: str) -> None:
    async with mounted() as host:
        client, other = await join(host), await join(host)
        await client.invoke("LongRunning", "k", 100_000)
        await client.invoke("StreamForever", "s", 100_000, invocation_id="8", kind=4)
        await trio.testing.wait_all_tasks_blocked()
        if how == "cancel":
            await client.send('{"type":5,"invocationId":"7"}\x1e{"type":5,"invocationId":"8"}\x1e')
        else:
            await client.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert await result(other, "GetCounter", "cancelled:k") == 1
        assert await result(other, "GetCounter", "cancelled:s") == 1


@pytest.mark.parametrize("how", ["error", "cut", "close", "well"])
async def test_an_upload_tells_how_it_ended(how: str) -> None:
    async with mounted() as host:
        client, other = await join(host), await join(host)
        await client.send(
            '{"type":1,"invocationId":"7","target":"UploadWatch","arguments":["k"],"streamIds":["s"]}\x1e'
            '{"type":2,"invocationId":"s","item":1}\x1e'
        )
        await trio.testing.wait_all_tasks_blocked()
        if how in ("error", "well"):
            end = {"type": 3, "invocationId": "s"} | ({"error": "x"} if how == "error" else {})
            await client.send(json.dumps(end) + "\x1e")
            assert ("error" in await client.message()) == (how == "error")
        else:
            await (client.cut() if how == "cut" else client.close())
            await trio.testing.wait_all_tasks_blocked()
        assert await result(other, "GetCounter", "uploaderror:k") == (how != "well")


async def test_sequences_are_sent_behind_the_answer_in_order(autojump_clock: Any) -> None:
    async with mounted() as host:
        client = await join(host)
        await client.invoke("StartSequence", "S", 3, 500)
        messages = [await client.message() for _ in range(4)]
        assert [each["arguments"] for each in messages if each["type"] == 1] == [[0], [1], [2]]
        await client.invoke("StartBulk", "B", 2, 3)
        messages = [await client.message() for _ in range(3)]
        assert [each["arguments"] for each in messages if each["type"] == 1] == [[0, "yyy"], [1, "yyy"]]
        own_id = await result(client, "GetConnectionId")
        assert await result(client, "GetCounter", f"bulk:{own_id}") == 2


async def test_a_bulk_waits_for_a_client_that_does_not_read() -> None:
    async with mounted() as host:
        client, other = await host.connect("/conformance", lockstep=True), await join(host)
        own_id = await result(client, "GetConnectionId")
        await client.invoke("StartBulk", "B", 100, 20_000)
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < await result(other, "GetCounter", f"bulk:{own_id}") < 20


async def test_the_request_that_began_the_connection_is_known() -> None:
    async with mounted() as host:
        client = await join(
            host, query="?a=1&Colour=r%C3%B6d", X_Colour="blue", Authorization="Bearer user:ada;role=admin"
        )
        assert await result(client, "GetHeader", "x-COLOUR") == "blue"
        assert await result(client, "GetHeader", "nope") is None
        assert await result(client, "GetQuery", "Colour") == "röd"
        assert await result(client, "GetUserId") == "ada"
        assert await result(client, "GetClaim", "role") == "admin"
        assert await result(client, "GetClaim", "nope") is None
        assert await result(client, "AdminOnly") == "secret"


async def test_users_and_mounts_have_connections_of_their_own() -> None:
    async with mounted() as host:
        ada = await join(host, query="?access_token=user:ada")
        elsewhere = await join(host, "-big", "?access_token=user:ada")
        nobody = await join(host)
        await result(nobody, "SendToUsers", ["ada", "bob"], "M", 1)
        assert (await ada.message())["arguments"] == [1]
        assert await elsewhere.is_quiet()
        assert await nobody.is_quiet()


async def test_only_the_public_interface_can_be_called() -> None:
    async with mounted() as host:
        client = await join(host)
        for name in (
            "OnConnected", "on_connected", "OnConnectedAsync", "OnDisconnected", "Clients", "Groups", "Context",
            "Presence", "_bound", "__init__", "__class__", "mro", "SimpleCalls", "registry", "",
        ):  # fmt: skip
            assert (await client.call(name))["error"].endswith("HubException: Method does not exist."), name


async def test_events_tell_how_a_connection_ended() -> None:
    async with mounted() as host:
        watcher = await join(host)
        for how in ("close", "cut", "malformed"):
            client = await join(host)
            own_id = await result(client, "GetConnectionId")
            if how == "malformed":
                await client.send("x\x1e")
            else:
                await (client.cut() if how == "cut" else client.close())
            await trio.testing.wait_all_tasks_blocked()
            last = "disconnected:error" if how == "malformed" else "disconnected:clean"
            assert await result(watcher, "GetEvents", own_id) == ["connected", last], how


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("user:ada", ("ada", {}, None)),
        ("user:ada;role=admin;exp=1500", ("ada", {"role": "admin"}, 1.5)),
        ("ada", None),
        ("user:ada;exp=soon", None),
        ("", None),
    ],
)
def test_the_token_names_the_user(token: str, expected: Any) -> None:
    class Head:
        query = f"access_token={token}"

        def header(self, _name: bytes) -> None:
            return None

    user = identify(Head())  # type: ignore[arg-type]  # all that is asked of a head
    assert (None if user is None else (user.id, dict(user.claims), user.expires)) == expected


async def test_an_expired_token_is_anonymous() -> None:
    async with mounted() as host:
        past = int((time.time() - 5) * 1000)
        client = await join(host, query=f"?access_token=user:ada;exp={past}")
        assert await result(client, "GetUserId") is None


def test_all_methods_of_the_contract_exist() -> None:
    public = {name for name in dir(ConformanceHub) if not name.startswith("_")}
    assert len(public) > 75
