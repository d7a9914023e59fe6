"""Zstandard, where its library is there: `compression.zstd` of Python 3.14, or its backport (the extra `zstd`).

Owns the parameters. Spec: RFC 8878; RFC 9659 (a window of at most 8 MiB).
"""

from __future__ import annotations

import sys

try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:  # this Python was built without it, or the extra is not installed
    AVAILABLE = False
    ERRORS: tuple[type[Exception], ...] = ()
else:
    AVAILABLE = True
    ERRORS = (zstd.ZstdError,)
    # A frame claims its window, which is allocated before a byte is known to be good.
    _WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
    # As in gzip, a check of the content: a damaged message is an error, not another message.
    _compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})

    def compress(message: bytes) -> bytes:
        """One whole frame; the compressor is kept, for making one takes as long as eight small messages."""
        return _compressor.compress(message, _compressor.FLUSH_FRAME)

    def decompressor() -> zstd.ZstdDecompressor:
        """For one frame."""
        return zstd.ZstdDecompressor(options=_WINDOW)
