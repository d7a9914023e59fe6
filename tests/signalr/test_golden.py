"""Replays recorded conversations of ASP.NET Core 10 and wants the same answers, byte for byte.

Not compared, as the recording's notes say: `Date`, `Server`, the order of header fields, chunks or
Content-Length, how messages are cut into frames, ids of server calls, escapes or raw characters in
JSON strings; nor which fields an answer has beyond those of the recording, and how many pings fit
into a time. Where a single difference is expected the scenario is played all the same: OTHER_DETAIL
and OTHER_WIDTH of `golden_replay` name them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.config import Config
from examples.conformance.hub import mount_all
from tests.signalr.golden_replay import OTHER_DETAIL, OTHER_WIDTH, Replay
from tests.signalr.hub_peer import hosting

SCENARIOS = {
    each["name"]: each["steps"]
    for each in json.loads((Path(__file__).parents[1] / "golden" / "signalr.json").read_text())
}

# What is not played, and why.
DIFFERENT = {
    "an unknown path": "the app's own 404 has a body; it is no path of a hub",
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
    assert {*DIFFERENT, *OTHER_DETAIL, *OTHER_WIDTH} <= set(SCENARIOS)
