"""The allocator keeps what large messages took."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
from engine.cli.allocator import keep_freed_memory

keep_freed_memory()
bytes(32 << 20)  # what is kept from now on
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    [bytearray(1 << 20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts Linux's page faults")
def test_memory_of_large_messages_is_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    # 1024 pages a turn: once for the first, and not for each of the twenty.
    assert int(done.stdout) < 4 * 1024
