"""The `date` field of responses (RFC 9110 6.6.1), made once a second."""

from __future__ import annotations

import time
from email.utils import formatdate

_second = -1
_text = b""


def http_date() -> bytes:
    """Now, as an IMF-fixdate."""
    global _second, _text
    now = int(time.time())
    if now != _second:
        _second = now
        _text = formatdate(now, usegmt=True).encode("ascii")
    return _text
