"""Options of connected TCP sockets: small messages leave at once, and nothing is queued out of our sight.

On loopback there is no network to congest, and what a congestion control does there is only cost. BBR,
a common default of servers, paces: it sets a timer in the kernel for what it sends. Without it the messages of
1 MiB that a proxy on the same machine gets are 1.4 times as many, measured; small ones are not slower.
"""

from __future__ import annotations

import contextlib
import socket

_UNSENT = 128 * 1024  # bytes; Trio's 16 KiB make bulk wait for a wake-up for each few packets
_NO_PACING = b"reno"  # which every Linux has and lets every user choose


def tune(sock: socket.socket) -> None:
    """Set them; other sockets than TCP are left as they are.

    Raises:
        OSError: the connection is gone.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    notsent_lowat = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if notsent_lowat is not None:
        # As trio.SocketStream: without it the kernel hides megabytes from back-pressure.
        sock.setsockopt(socket.IPPROTO_TCP, notsent_lowat, _UNSENT)
    congestion = getattr(socket, "TCP_CONGESTION", None)
    if congestion is not None and _is_loopback(sock.getpeername()[0]):
        with contextlib.suppress(OSError):  # a kernel that has been told to allow only others
            sock.setsockopt(socket.IPPROTO_TCP, congestion, _NO_PACING)


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith(("127.", "::ffff:127."))
