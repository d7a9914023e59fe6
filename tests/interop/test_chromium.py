"""Headless Chromium on the demo page: a chat of two tabs, echoes that are timed and drawn, gRPC-Web."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.peers import chromium
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.timeout(120)
def test_two_tabs_chat_echoes_are_drawn_and_the_greeter_answers(engine_server: ServerProcess, tmp_path: Path) -> None:
    seen = chromium("chromium_demo.mjs", f"{engine_server.url}/", str(tmp_path), limit=100)
    first, second = "hello from the first tab", "hello back · <b>你好</b>"  # markup arrives as text
    assert seen["ada"] == [
        {"own": True, "user": "", "text": first},
        {"own": False, "user": "Grace", "text": second},
    ]
    assert seen["grace"] == [
        {"own": False, "user": "Ada", "text": first},
        {"own": True, "user": "", "text": second},
    ]
    assert "are you there?" in seen["reply"]
    assert 0 < seen["median"] < 1000
    assert seen["colours"] > 10  # a line with its soft edges, its area and its labels
    assert seen["leftEdge"]  # no label of the y-axis is cut
    assert seen["greeting"]["unary"] == ["Hello Ада · <i>"]
    assert seen["greeting"]["stream"] == ["Hello Ада · <i>"] * 5
    assert seen["greeting"]["early"]  # replies are shown as they arrive
    assert seen["greeting"]["state"].startswith("OK")
    assert seen["overflow"] <= 0  # nothing is wider than a phone
    assert seen["problems"] == []
    for name in ("demo.png", "demo-phone.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
