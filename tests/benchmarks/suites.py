"""What is compared with what, and how it is measured: rounds that go around the servers, and their medians.

Each server is started afresh for a round, rounds go around the servers, and the median of a server's
rounds counts, so that a slow moment of the machine does not fall on one of them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.loads import Figures, Load
from tests.benchmarks.servers import Running, Server, running

Table = dict[str, dict[str, Figures]]
"""Medians by load and server."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one server's figure has to be, as a ratio to another's in the same run, or as it is."""

    load: Load
    ratio: float
    over: str = ""  # the server to be compared with
    of: str = "engine"
    figure: str = "rate"
    at_most: bool = False  # the ratio is an upper bound: of latencies, of memory
    base: Load | None = None  # compared with what `over` does under this load; None: the same

    def holds(self, ratio: float) -> bool:
        """Whether a measured ratio meets the target."""
        return ratio <= self.ratio if self.at_most else ratio >= self.ratio

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.ratio:g}"


@dataclass(frozen=True, slots=True)
class Suite:
    """Servers that answer the same question, the loads put on them, and what should come of it.

    The first server is what the others are compared with in the table.
    """

    key: str  # its name on the command line
    title: str
    servers: tuple[Server, ...]
    loads: tuple[Load, ...]
    measure: Callable[[Running, Load, float], Figures]
    targets: tuple[Target, ...] = ()
    figure: str = "rate"  # the one that the table's ratios are of


def run_suite(suite: Suite, seconds: float, rounds: int) -> Table:
    """Measure all of it; what is not installed is left out, and named."""
    found: dict[tuple[str, str], list[Figures]] = {}
    for number in range(rounds):
        for server in suite.servers:
            if not server.is_installed:
                print(f"{server.name} left out: run bash .ci/setup bench", file=sys.stderr)
                continue
            print(f"{suite.title}: round {number + 1} of {rounds}, {server.name}", file=sys.stderr)
            with running(server) as there:
                for load in suite.loads:
                    figures = suite.measure(there, load, seconds)
                    found.setdefault((str(load), server.name), []).append(figures)
    table: Table = {}
    for (load_name, name), results in found.items():
        medians = {figure: statistics.median(each[figure] for each in results) for figure in results[0]}
        table.setdefault(load_name, {})[name] = medians
    return table
