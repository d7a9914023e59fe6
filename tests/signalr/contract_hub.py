"""The hub that the golden transcripts were recorded from: that of the conformance app."""

from __future__ import annotations

from examples.conformance.hub import ConformanceHub as ContractHub

__all__ = ["ContractHub"]
