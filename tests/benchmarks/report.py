"""Prints a measured suite: the figures, the ratios, and which targets they meet."""

from __future__ import annotations

from tests.benchmarks.suites import Suite, Table

_COLUMNS = {  # figure: heading, how it is shown
    "rate": ("per second", "{:,.0f}"),
    "mib": ("MiB/s", "{:,.0f}"),
    "p50_us": ("p50 µs", "{:,.0f}"),
    "p99_us": ("p99 µs", "{:,.0f}"),
    "kib": ("KiB each", "{:,.1f}"),
    "slowdown": ("slowdown", "{:.2f} ×"),  # of p99, to what it is without the flood
    "server_us": ("server µs", "{:,.1f}"),  # of its core, for one message
    "keep_alive": ("keep-alive", "{:.1%}"),  # of the server's core
    "client_us": ("client µs", "{:,.1f}"),  # of its core, for one call
    "writes": ("writes each", "{:,.4f}"),  # to sockets, of the server, for one message
    "copied": ("copied", "{:,.2f} ×"),  # bytes, for each byte sent
    "load_busy": ("load busy", "{:.0%}"),
}


def print_table(suite: Suite, table: Table) -> None:
    """The figures, and of each peer what the first server's figure is as a ratio to it."""
    first = suite.servers[0].name
    figures = [name for name in _COLUMNS if any(name in each for row in table.values() for each in row.values())]
    widths = (max(len(load) for load in table), max(len(name) for row in table.values() for name in row))
    print(f"\n{suite.title}")
    heading = "".join(f"{_COLUMNS[name][0]:>12}" for name in figures)
    print(f"{'load':<{widths[0]}}  {'server':<{widths[1]}}{heading}  {first} is")
    for load, row in table.items():
        for name, found in row.items():
            cells = "".join(
                f"{_COLUMNS[figure][1].format(found[figure]) if figure in found else '':>12}" for figure in figures
            )
            verdict = ""
            if name != first and first in row:
                verdict = f"{row[first][suite.figure] / found[suite.figure]:.2f} ×"
            print(f"{load:<{widths[0]}}  {name:<{widths[1]}}{cells}{verdict:>{len(first) + 5}}")


def print_targets(suite: Suite, table: Table) -> bool:
    """Each target with the ratio that was found; True when all hold. Without its peer a target is passed over."""
    good = True
    for target in suite.targets:
        row = table[str(target.load)]
        if target.of not in row or (target.over and target.over not in row):
            continue
        ratio = row[target.of][target.figure]
        beside = ""
        if target.over:
            base = row if target.base is None else table[str(target.base)]
            ratio /= base[target.over][target.figure]
            beside = f" {target.over}'s" if target.base is None else f" that of {target.base}"
        holds = target.holds(ratio)
        good = good and holds
        what = _COLUMNS[target.figure][0]
        verdict = "holds" if holds else "is missed"
        print(f"  {target.load}: {what} of {target.of} is {ratio:.2f} ×{beside}; the target {target} {verdict}")
    return good
