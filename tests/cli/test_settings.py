"""From text to settings: each flag reaches the setting it names, each type has its own spelling."""

from __future__ import annotations

import dataclasses
import math

import pytest

from engine.cli.settings import FLAGS, apply_settings, build_config, parse_value
from engine.config import Bucket, Config, TlsConfig
from engine.errors import ConfigError


def test_every_flag_names_a_setting_and_no_two_the_same():
    assert len({flag.setting for flag in FLAGS}) == len(FLAGS)
    for flag in FLAGS:
        section, _, key = flag.setting.rpartition(".")
        owner = {"": Config, "tls": TlsConfig}.get(section) or type(getattr(Config(), section))
        assert key in {item.name for item in dataclasses.fields(owner)}


def test_flags_override_the_apps_own_settings_and_set_overrides_flags():
    base = Config().replace(server__port=1, server__host="app.example", detailed_errors=True)
    config = build_config(base, {"port": "2", "max_connections": "5"}, ["server.port=3"])
    assert config.server.port == 3
    assert config.server.max_connections == 5
    assert config.server.host == "app.example"
    assert config.detailed_errors is True


def test_flags_that_were_not_given_change_nothing():
    base = Config().replace(server__port=1)
    nothing = dict.fromkeys((flag.parameter for flag in FLAGS), None)
    assert build_config(base, nothing, []) == base


def test_tls_flags_make_the_section():
    config = build_config(Config(), {"tls_cert": "c.pem", "tls_key": "k.pem", "tls_port": "8443"}, [])
    assert config.tls == TlsConfig(cert_file="c.pem", key_file="k.pem", port=8443)
    again = build_config(config, {}, ["tls.port=none"])
    assert again.tls == TlsConfig(cert_file="c.pem", key_file="k.pem")
    assert build_config(Config(), {"tls_self_signed": True}, []).tls == TlsConfig(self_signed=True)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "4096", 4096),
        (int, "64KiB", 65536),
        (int, "16 MiB", 16 * 1024 * 1024),
        (int, "2k", 2000),
        (int, "1e6", 1_000_000),
        (int, "-1", -1),
        (float, "10", 10.0),
        (float, "250ms", 0.25),
        (float, "30us", 3e-05),
        (float, "2min", 120.0),
        (float, "inf", math.inf),
        (bool, "true", True),
        (bool, "OFF", False),
        (str, "a=b", "a=b"),
        (int | None, "none", None),
        (int | None, "5", 5),
        (str | None, "x", "x"),
        (Bucket, "200+50", Bucket(200, 50)),
        (Bucket, "1.5+0.1", Bucket(1.5, 0.1)),
        (tuple[str, ...], "a, b,,c", ("a", "b", "c")),
        (tuple[int, ...], "1,2", (1, 2)),
    ],
)
def test_each_type_has_its_spelling(kind, text, value):
    found = parse_value("x", kind, text)
    assert type(found) is type(value)
    assert found == (pytest.approx(value) if kind is float else value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, ""),
        (int, "ten"),
        (int, "1.5"),
        (int, "5s"),
        (int, "inf"),
        (int, "0x10"),
        (float, "nan"),
        (float, "10KiB"),
        (float, "1 2"),
        (bool, ""),
        (Bucket, "5"),
        (Bucket, "5+"),
        (Bucket, "a+b"),
        (dict, "{}"),
    ],
)
def test_what_has_another_spelling_is_refused_with_the_name_of_the_setting(kind, text):
    with pytest.raises(ConfigError) as caught:
        parse_value("some.setting", kind, text)
    assert caught.value.key == "some.setting"


def test_every_setting_that_there_is_can_be_written_as_text():
    base = Config(tls=TlsConfig(self_signed=True))
    for section in dataclasses.fields(Config):
        settings = getattr(base, section.name)
        if not dataclasses.is_dataclass(settings):
            continue
        for item in dataclasses.fields(settings):
            value = getattr(settings, item.name)
            text = f"{value.burst}+{value.per_second}" if isinstance(value, Bucket) else str(value)
            if isinstance(value, tuple):
                text = ",".join(map(str, value))
            assert build_config(base, {}, [f"{section.name}.{item.name}={text}"]) == base


def test_values_out_of_range_are_refused_by_the_setting_itself():
    with pytest.raises(ConfigError, match=r"http2\.max_frame_size"):
        apply_settings(Config(), {"http2.max_frame_size": 1})
