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
        self._partial = bytearray()  # of a line that is incomplete
        self._after_cr = False  # a LF that comes next belongs to it
        self._data: list[bytes] = []  # lines of the event that is incomplete
        self._size = 0
        self._events: deque[bytes] = deque()

    def receive_data(self, data: bytes) -> None:
        """Take bytes in the order of their arrival.

        Raises:
            RemoteProtocolError: an event is larger than the limit.
        """
        if not data:
            return
        position = int(self._after_cr and data[:1] == b"\n")
        self._after_cr = data[-1:] == b"\r"
        for end in _LINE_END.finditer(data, position):
            self._partial += data[position : end.start()]
            self._line(bytes(self._partial))
            self._partial.clear()
            position = end.end()
        self._partial += data[position:]
        if self._size + len(self._partial) > self._limit:
            raise RemoteProtocolError(
                f"the server sent an event of more than {self._limit:.0f} bytes; "
                "raise max_message_size of the HubConnection"
            )

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
