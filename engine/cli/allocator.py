"""What the process's allocator does with the memory of large messages.

glibc gives the memory of each large block back to the kernel, which then fills in new pages, one fault at
a time, for the next one: that is a third of what an echo of 1 MiB costs. A server had better keep some.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT = 64 * 1024 * 1024  # bytes that may be free at the top of the heap; a hundredth of a small machine
_MAPPED_FROM = 32 * 1024 * 1024  # bytes; glibc's own limit for what it learns by itself


def keep_freed_memory() -> None:
    """Do not give up to 64 MiB back to the kernel; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)
