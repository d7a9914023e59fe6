"""Logging, through the standard library only.

Owns: the two line formats, and `configure`, which the command line calls and nobody else: a program
that embeds the engine keeps its own logging. Never logs by itself.

Loggers: `engine.access` (a record an exchange), `engine.error` (what handlers raise), and one a module
(`engine.server`, `engine.transport.tls`, ...). A record may carry `fields`, a dict that the JSON format
writes beside its message.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from engine.errors import ConfigError

__all__ = ["JsonFormatter", "TextFormatter", "configure", "printable"]

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("text", "json")


def printable(text: str) -> str:
    """`text` with anything escaped that could forge a line of the log or drive a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _timestamp(record: logging.LogRecord) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """`2026-11-24T03:02:01.123Z INFO engine.access: message`, then a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_timestamp(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in getattr(record, "fields", {}).items():
            entry.setdefault(key, value)
        if record.exc_info and record.exc_info[0] is not None:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(level: str = "info", format: str = "text", *, access: bool = True, stream: TextIO | None = None) -> None:
    """Send the records of `engine` and its children to `stream` (standard error), from `level` up.

    `access=False` leaves out the record an exchange: at full load it costs more than the exchange.

    Calling it again replaces what it set before. Other libraries' loggers are left alone.

    Raises:
        ConfigError: no such level or format.
    """
    if level not in LEVELS:
        raise ConfigError("log-level", level, f"give one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ConfigError("log-format", format, f"give one of {', '.join(FORMATS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logger = logging.getLogger("engine")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
    logging.getLogger("engine.access").setLevel(logging.NOTSET if access else logging.WARNING)
