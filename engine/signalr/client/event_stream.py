"""Server-sent events as bytes (WHATWG HTML, section 9.2.6 "Interpreting an event stream").

Owns: lines, `data` fields and the end of an event. Sans I/O. Never looks at event names or ids, which
hubs do not use, nor at `retry`: a hub's event stream is never reopened.
"""

from __future__ import annotations

import re
from collections import deque

from engine.errors import RemoteProtocolError

__all__ = ["EventStreamReader"]

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventStreamReader:
    """Bytes in, the data of events out.

    Args:
        limit: bytes of one event.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._rest = b""  # of a line that is incomplete
        self._data: list[bytes] = []  # lines of the event that is incomplete
        self._size = 0
        self._events: deque[bytes] = deque()

    def receive_data(self, data: bytes) -> None:
        """Take bytes in the order of their arrival.

        Raises:
            RemoteProtocolError: an event is larger than the limit.
        """
        data = self._rest + data
        position = 0
        for end in _LINE_END.finditer(data):
            if end.end() == len(data) and end.group() == b"\r":
                break  # perhaps half of a CRLF
            self._line(data[position : end.start()])
            position = end.end()
        self._rest = data[position:]
        if self._size + len(self._rest) > self._limit:
            raise RemoteProtocolError(f"the server sent an event of more than {self._limit:g} bytes")

    def next_event(self) -> bytes | None:
        """The data of the next event, its lines joined with LF; None if more bytes are needed."""
        return self._events.popleft() if self._events else None

    def _line(self, line: bytes) -> None:
        if not line:
            if self._data:
                self._events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value[1:] if value[:1] == b" " else value)
            self._size += len(line)
