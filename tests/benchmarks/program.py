"""The command line of the benchmark programs: which suites, how long, where the figures go.

Only the ratios mean anything on another machine. Exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.report import print_table, print_targets
from tests.benchmarks.suites import Suite, Table, run_suite


def main(name: str, suites: Sequence[Suite]) -> int:
    """Run those that the command line names, or all."""
    keys = [suite.key for suite in suites]
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}")
    parser.add_argument("suites", nargs="*", metavar="|".join(keys), help="all by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, after 1 s of warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to a file too")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(keys):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    good = True
    figures: dict[str, Table] = {}
    for suite in suites:
        if arguments.suites and suite.key not in arguments.suites:
            continue
        try:
            table = figures[suite.key] = run_suite(suite, arguments.seconds, arguments.rounds)
        except RuntimeError as error:
            parser.exit(2, f"{error}\n")
        print_table(suite, table)
        good = print_targets(suite, table) and good
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0 if good else 1
