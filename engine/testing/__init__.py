"""Tests of apps in memory: `TestClient`, and the network between a client and a server.

For the test suites of those who build on the engine; nothing of the engine itself uses it.
"""

from engine.testing.client import TestClient
from engine.testing.network import Link, MemoryStream, Network
from engine.testing.response import TestResponse, TestStream

__all__ = ["Link", "MemoryStream", "Network", "TestClient", "TestResponse", "TestStream"]
