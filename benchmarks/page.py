"""Writes docs/benchmarks.md and its plots from the JSON that the benchmarks print."""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Written by `benchmarks/page.py` from the output of `benchmarks/inference.py --json` and
`benchmarks/training.py --json`; `make benchmarks` does all of it. Times are medians of calls that
take turns in one process, in random order, each workload in a process of its own; outputs are
compared first. *Ratio* is the best peer's median over ours: above 1, Nexus is faster. *Goal* is
what the ratio is to reach.
"""
COLUMNS = (
    *("workload", "Nexus ms", "p99 ms", "best peer", "its ms", "its p99 ms", "ratio", "goal"),
    "others, ms",
)
BAR, WIDTH, LEFT, RIGHT = 22, 860, 250, 120


def section(told: dict[str, Any], image: str) -> str:
    """A table of all rows, below what the machine can do."""
    machine = told["machine"]
    rates = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in machine["gflops"].items())
    slowest = list(machine["gbytes"].values())[-1]
    lines = [
        f"## {told['title'].capitalize()}, {told['threads']} thread(s)",
        f"{machine['machine']}: {rates}, {slowest:.0f} GB/s from memory, measured.",
        *_busy(told),
        f"Peers in this run: {', '.join(_peers(told))}.",
        f"![ratios]({image})",
        f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}",
    ]
    return "\n\n".join(lines) + "\n" + "\n".join(map(_row, told["rows"])) + "\n"


def _peers(told: dict[str, Any]) -> list[str]:
    return sorted({name for row in told["rows"] for name in (*row["peers_ms"], *row["errors"])})


def _busy(told: dict[str, Any]) -> list[str]:
    """A warning where others were at work: the benchmark itself is a load of its threads."""
    if told["load"] < told["threads"] + 0.5:
        return []
    said = f"load average {told['load']:.1f} on {told['cores']} cores"
    return [f"**The machine was busy with other work ({said}): times are too long, ratios rough.**"]


def _row(row: dict[str, Any]) -> str:
    best = row["best_peer"]
    own = "failed" if row["nexus_ms"] is None else f"{row['nexus_ms']:.4g}"
    wrong = row["errors"].get("nexus", "")
    others = [
        f"{name} {ms:.4g}"
        for name, ms in sorted(row["peers_ms"].items(), key=lambda item: item[1])
        if name != best
    ]
    others += [f"{name}: {said}" for name, said in row["errors"].items() if name != "nexus"]
    cells = [
        row["workload"],
        f"{own} ({wrong})" if wrong else own,
        _number(row["nexus_p99_ms"]),
        best or "-",
        _number(row["peers_ms"].get(best)),
        _number(row["peers_p99_ms"].get(best)),
        "-" if row["ratio_best_peer"] is None else f"{row['ratio_best_peer']:.2f}",
        f"{row['goal']:.2f}",
        ", ".join(others).replace("|", "/") or "-",
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def bars(rows: list[dict[str, Any]]) -> str:
    """A bar for each ratio, a line at each goal."""
    shown = [row for row in rows if row["ratio_best_peer"] is not None]
    longest = max([1.5, *(row["ratio_best_peer"] for row in shown)])
    scale = (WIDTH - LEFT - RIGHT) / longest
    parts: list[str] = []
    for index, row in enumerate(shown):
        top, ratio = 10 + index * BAR, row["ratio_best_peer"]
        colour = "#009e73" if ratio >= row["goal"] else "#d55e00"
        at = LEFT + row["goal"] * scale
        parts += [
            _text(LEFT - 8, top + 14, row["workload"], "end"),
            f'<rect x="{LEFT}" y="{top}" width="{ratio * scale:.1f}" height="{BAR - 6}" '
            f'fill="{colour}"/>',
            _text(LEFT + ratio * scale + 6, top + 14, f"{ratio:.2f} {row['best_peer']}", "start"),
            f'<path d="M{at:.1f} {top - 3}v{BAR}" stroke="#000"/>',
        ]
    height = 20 + len(shown) * BAR
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def main() -> None:
    """Read the files that are given, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    given = parser.parse_args()
    sections = [HEAD]
    for path in given.results:
        told = json.loads(path.read_text())
        image = f"benchmarks-{told['title'].replace(' ', '-')}-{told['threads']}.svg"
        (given.docs / image).write_text(bars(told["rows"]))
        sections.append(section(told, image))
    (given.docs / "benchmarks.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
