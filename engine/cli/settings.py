"""From the command line's text to a `Config`.

Owns: the table of flags (each stands there once; its type, its default and its check are those of the
setting it names), `--set section.key=value` for every other setting, and the parsing of values.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from engine.config import Bucket, Config
from engine.errors import ConfigError

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of its own for a setting that is wanted often."""

    name: str
    setting: str
    help: str

    @property
    def parameter(self) -> str:
        """The name under which click hands the value over."""
        return self.name.removeprefix("--").replace("-", "_")


FLAGS = (
    Flag("--host", "server.host", "Address to listen on, or unix:/path of a socket."),
    Flag("--port", "server.port", "Port to listen on; 0 picks a free one."),
    Flag("--tls-cert", "tls.cert_file", "PEM file of the certificate chain; switches TLS on."),
    Flag("--tls-key", "tls.key_file", "PEM file of its key, if that is not in the same file."),
    Flag("--tls-port", "tls.port", "A port for TLS alone; without it TLS and cleartext share the port."),
    Flag("--tls-self-signed", "tls.self_signed", "TLS with a throw-away certificate, for development."),
    Flag("--graceful-timeout", "server.graceful_timeout", "Seconds that running requests have after a stop signal."),
    Flag("--max-connections", "server.max_connections", "Connections at once; more wait."),
    Flag(
        "--busy-poll",
        "server.busy_poll",
        "Poll on so long after a message, such as 100us: half the latency, more CPU.",
    ),
    Flag("--detailed-errors", "detailed_errors", "Show the text of unexpected errors to clients."),
)


def setting_options(command: _Command) -> _Command:
    """Decorate a command with the table's flags and `--set`."""
    help_text = "Any other setting, such as websocket.max_queue=32."
    command = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=help_text)(command)
    for flag in reversed(FLAGS):
        kind, default = _lookup(flag.setting)
        if kind is bool:
            option = click.option(flag.name, flag.parameter, is_flag=True, default=None, help=flag.help)
        else:
            shown = "" if default is None else f"  [default: {_show(default)}]"
            metavar = "NUMBER" if _allows(kind, int) or _allows(kind, float) else "TEXT"
            option = click.option(flag.name, flag.parameter, metavar=metavar, help=flag.help + shown)
        command = option(command)
    return command


def build_config(base: Config, flags: dict[str, Any], overrides: Iterable[str]) -> Config:
    """`base` with flags and `--set` applied; the latter wins.

    Raises:
        ConfigError: a value does not fit its setting, or there is no such setting.
    """
    values: dict[str, Any] = {}
    for flag in FLAGS:
        given = flags.get(flag.parameter)
        if given is not None:
            values[flag.setting] = parse_value(flag.name, _lookup(flag.setting)[0], given)
    for override in overrides:
        setting, equals, text = override.partition("=")
        if not equals:
            raise ConfigError("--set", override, "write KEY=VALUE, such as server.port=9000")
        values[setting] = parse_value(setting, _lookup(setting)[0], text)
    return apply_settings(base, values)


def apply_settings(base: Config, values: dict[str, Any]) -> Config:
    """`base` with settings replaced, by their full names; a section that is None is made.

    Raises:
        ConfigError: a value is out of its setting's range.
    """
    sections: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for setting, value in values.items():
        section, dot, key = setting.partition(".")
        if dot:
            sections.setdefault(section, {})[key] = value
        else:
            changes[setting] = value
    for section, changed in sections.items():
        current = getattr(base, section)
        made = _section_type(section)(**changed) if current is None else dataclasses.replace(current, **changed)
        changes[section] = made
    return dataclasses.replace(base, **changes)


# -- the settings that there are ----------------------------------------------------


def _section_type(section: str) -> Any:
    hint = typing.get_type_hints(Config).get(section)
    return next((each for each in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(each)), None)


def _all_settings() -> list[str]:
    names: list[str] = []
    for item in dataclasses.fields(Config):
        section = _section_type(item.name)
        if section is None:
            names.append(item.name)
        else:
            names.extend(f"{item.name}.{each.name}" for each in dataclasses.fields(section))
    return names


def _lookup(setting: str) -> tuple[Any, Any]:
    """The type and the default of a setting.

    Raises:
        ConfigError: there is none of that name.
    """
    if setting not in _all_settings():
        near = difflib.get_close_matches(setting, _all_settings(), 1)
        hint = f"did you mean {near[0]}?" if near else "the names are those of engine.config, such as server.port"
        raise ConfigError(setting, None, f"there is no such setting; {hint}")
    section, dot, key = setting.rpartition(".")
    owner = _section_type(section) if dot else Config
    default = next(item.default for item in dataclasses.fields(owner) if item.name == key)
    return typing.get_type_hints(owner)[key], None if default is dataclasses.MISSING else default


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allows(kind: Any, wanted: type) -> bool:
    return kind is wanted or wanted in typing.get_args(kind)


# -- values -----------------------------------------------------------------------

_SIZES = {"": 1, "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_TIMES = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-z]*)")


def parse_value(name: str, kind: Any, text: Any) -> Any:
    """A value of the setting's type from its text; `name` is for the message.

    Whole numbers take the units k, KiB, MiB, GiB; others us, ms, s, min, h, and `inf`.
    A bucket is BURST+PER_SECOND. `none` unsets what may be unset; a list is separated by commas.

    Raises:
        ConfigError: it is not a value of that type.
    """
    if not isinstance(text, str):
        return text  # a flag without a value: click made it a bool
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        choices = [each for each in typing.get_args(kind) if each is not types.NoneType]
        if len(choices) < len(typing.get_args(kind)) and text.lower() == "none":
            return None
        kind = choices[0]
    if kind is str:
        return text
    if kind is bool:
        word = _WORDS.get(text.lower())
        if word is None:
            raise ConfigError(name, text, "give true or false")
        return word
    if kind is int:
        return _parse_int(name, text)
    if kind is float:
        return math.inf if text.lower() == "inf" else _scaled(name, text, _TIMES, "a number, such as 10, 0.5 or 250ms")
    if kind is Bucket:
        burst, _, rate = text.partition("+")
        hint = "BURST+PER_SECOND, such as 200+50"
        return Bucket(_scaled(name, burst, {"": 1.0}, hint), _scaled(name, rate, {"": 1.0}, hint))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(parse_value(name, item, part.strip()) for part in text.split(",") if part.strip())
    raise ConfigError(name, text, "this setting cannot be written as text; set it in Python with App(config=...)")


def _parse_int(name: str, text: str) -> int:
    value = _scaled(name, text, _SIZES, "a whole number, such as 4096 or 64KiB")
    if value != int(value):
        raise ConfigError(name, text, "give a whole number, such as 4096 or 64KiB")
    return int(value)


def _scaled(name: str, text: str, units: dict[str, Any], hint: str) -> float:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        raise ConfigError(name, text, f"give {hint}")
    value: float = float(match[1]) * units[match[2]]
    return value
