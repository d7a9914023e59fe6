"""Replays recorded conversations of ASP.NET Core 10 and wants the same answers, byte for byte.

Not compared, as the recording's notes say: `Date`, `Server`, the order of header fields, chunks or
Content-Length, how messages are cut into frames, ids of server calls, escapes or raw characters in
JSON strings, which fields an answer has beyond those of the recording, how wide MessagePack integers
are written (clients cannot tell), and how many pings fit into a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.config import Config
from examples.conformance.hub import mount_all
from tests.signalr.golden_replay import Replay
from tests.signalr.hub_peer import hosting

SCENARIOS = {
    each["name"]: each["steps"]
    for each in json.loads((Path(__file__).parents[1] / "golden" / "signalr.json").read_text())
}

# Where we differ on purpose, and why.
DIFFERENT = {
    "handshake: malformed, with detailed errors": "the detail names Python's error, not .NET's",
    "json, detailed errors: a result that cannot be encoded": "the detail names Python's error, not .NET's",
    "messagepack, detailed errors: a result that cannot be encoded": "the detail names Python's error, not .NET's",
    "an unknown path": "the app's own 404 has a body",
}


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in DIFFERENT])
async def test_the_recorded_conversation_has_the_same_answers(name: str, autojump_clock: Any) -> None:
    async with hosting(config=Config()) as host, trio.open_nursery() as nursery:
        mount_all(host.app)
        with trio.fail_after(60):
            await Replay(host, name, nursery).play(SCENARIOS[name])
        nursery.cancel_scope.cancel()


def test_all_scenarios_are_replayed_or_listed_with_a_reason() -> None:
    assert len(SCENARIOS) == 293
    assert set(DIFFERENT) <= set(SCENARIOS)
