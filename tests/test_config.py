"""Settings: frozen, named in errors, refused when they make no sense."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from engine.config import Bucket, Config, TlsConfig
from engine.errors import ConfigError

SECTIONS = [item.name for item in dataclasses.fields(Config) if item.name not in ("tls", "detailed_errors")]


def test_a_setting_is_replaced_by_its_name() -> None:
    config = Config().replace(server__port=9000, websocket__max_message_size=5, detailed_errors=True)
    assert (config.server.port, config.websocket.max_message_size, config.detailed_errors) == (9000, 5, True)
    assert Config().server.port == 8000  # the original is as it was


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("server__prot", 1, r"server\.prot: there is no such setting; known here: host, port"),
        ("servre__port", 1, r"servre\.port: there is no such setting; known here: server"),
        ("debug", True, r"debug: there is no such setting"),
        ("detailed_errors__x", 1, r"detailed_errors\.x: there is no such setting"),
        ("server__port", 70_000, r"server\.port = 70000: give a port from 0 to 65535"),
        ("http2__max_frame_size", 100, r"http2\.max_frame_size = 100: give 16384 to 16777215"),
        ("http2__stream_window", 100, r"http2\.stream_window = 100: give 65535 to 2147483647"),
        ("http2__connection_window", 2**31, r"http2\.connection_window = 2147483648: give 65535"),
        ("http1__head_timeout", math.nan, r"http1\.head_timeout = nan: give a number"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config().replace(**{name: value})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_must_be_positive_and_may_be_infinite_where_it_is_a_time(section: str) -> None:
    settings = getattr(Config(), section)
    checked = 0
    for item in dataclasses.fields(settings):
        default = getattr(settings, item.name)
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        checked += 1
        with pytest.raises(ConfigError, match=rf"{section}\.{item.name} = -1"):
            Config().replace(**{f"{section}__{item.name}": -1})
        if isinstance(default, float):
            assert Config().replace(**{f"{section}__{item.name}": math.inf})
    assert checked


def test_every_setting_says_why() -> None:
    source = (Path(__file__).parents[1] / "engine" / "config.py").read_text()
    settings = re.findall(r"^    (\w+): [\w |.\[\]]+ = (.+)$", source, re.MULTILINE)
    silent = [name for name, rest in settings if "#" not in rest and "field(" not in rest]
    assert [name for name in silent if name not in ("port", "tls")] == []


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().detailed_errors = True  # type: ignore[misc]
    assert hash(Config()) == hash(Config())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"tls\.cert_file: name a PEM file"),
        ({"self_signed": True, "cert_file": "x"}, r"tls\.self_signed = True: drop it"),
        ({"self_signed": True, "port": -1}, r"tls\.port = -1: give a port"),
    ],
)
def test_tls_settings_that_contradict_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TlsConfig(**options)  # type: ignore[arg-type]


def test_a_bucket_is_a_value() -> None:
    assert Bucket(1, 2) == Bucket(1, 2)
