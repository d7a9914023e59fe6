"""Reads the Sec-WebSocket-Extensions field (RFC 6455 section 9.1).

Owns: the grammar, quoted strings included, and nothing of what an extension means. Never raises
anything but `ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"[ \t,]*")  # RFC 9110 section 5.6.1.2: a recipient skips empty elements


@dataclass(frozen=True, slots=True)
class Offer:
    """One extension that the client would use, with the parameters as they were given.

    Attributes:
        name: as sent; extension tokens are case-sensitive.
        parameters: pairs of a name and its value, None where there is none, in order, perhaps repeated.
    """

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()


def parse_extensions(values: Iterable[str]) -> tuple[Offer, ...]:
    """The offers of all fields, the client's favourite first.

    Raises:
        ValueError: a value breaks the grammar.
    """
    offers: list[Offer] = []
    for value in values:
        position = _skip(_BETWEEN, value, 0)
        while position < len(value):
            offer, position = _parse_offer(value, position)
            offers.append(offer)
            if position < len(value) and value[position] != ",":
                raise ValueError(f"{value[position]!r} at {position} in a list of extensions")
            position = _skip(_BETWEEN, value, position)
    return tuple(offers)


def _parse_offer(value: str, position: int) -> tuple[Offer, int]:
    name, position = _parse_token(value, position)
    parameters: list[tuple[str, str | None]] = []
    while value[position : position + 1] == ";":
        key, position = _parse_token(value, _skip(_BLANK, value, position + 1))
        setting = None
        if value[position : position + 1] == "=":
            setting, position = _parse_value(value, _skip(_BLANK, value, position + 1))
        parameters.append((key, setting))
    return Offer(name, tuple(parameters)), position


def _parse_token(value: str, position: int) -> tuple[str, int]:
    found = _TOKEN.match(value, position)
    if found is None:
        raise ValueError(f"a token is missing at {position} in a list of extensions")
    return found[0], _skip(_BLANK, value, found.end())


def _parse_value(value: str, position: int) -> tuple[str, int]:
    found = _QUOTED.match(value, position)
    if found is None:
        return _parse_token(value, position)
    # "... the value after quoted-string unescaping MUST conform to the 'token' ABNF" (RFC 6455 section
    # 9.1): left to the extension, for one that we do not know must not keep the others from being used.
    return _ESCAPE.sub(r"\1", found[1]), _skip(_BLANK, value, found.end())


def _skip(what: re.Pattern[str], value: str, position: int) -> int:
    found = what.match(value, position)
    return position if found is None else found.end()
