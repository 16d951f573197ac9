"""Counts, as a table for people and as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_compiler.verify.conformance.notes import NOTES
from nexus_compiler.verify.conformance.worker import OURS, Verdict

VERDICTS = ("pass", "wrong", "unsupported", "crash")

Found = Mapping[str, Mapping[str, Verdict]]


def value(operators: Mapping[str, str], found: Found) -> dict[str, Any]:
    """The whole result as plain data; `operators` gives the operator of each case."""
    result: dict[str, Any] = {"summary": _summary(found, OURS), "rows": []}
    result["summary"]["pass_frozen"] = sum(
        1 for v in found.values() if v[OURS].verdict == "pass" and v[OURS].frozen
    )
    for name, verdicts in found.items():
        one = verdicts[OURS]
        row: dict[str, Any] = {
            "name": name,
            "operator": operators[name],
            "verdict": one.verdict,
            "reason": one.reason,
            "seconds": one.seconds,
            "frozen": list(one.frozen),
        }
        row["against"] = {
            who: {"verdict": other.verdict, "reason": other.reason, "seconds": other.seconds}
            for who, other in verdicts.items()
            if who != OURS
        }
        result["rows"].append(row)
    peers = [who for who in next(iter(found.values()), {}) if who != OURS]
    result["against"] = {who: _summary(found, who) for who in peers}
    return result


def _summary(found: Found, who: str) -> dict[str, int]:
    counts = Counter(verdicts[who].verdict for verdicts in found.values())
    return {"total": len(found), **{verdict: counts[verdict] for verdict in VERDICTS}}


def head(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the columns of `rows`."""
    peers = (f"{who} pass" for who in result["against"])
    return ("operator", "cases", *VERDICTS, "frozen", *peers)


def rows(result: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """A line for each operator, and one for all of them."""
    groups: dict[str, list[Any]] = {}
    for row in result["rows"]:
        groups.setdefault(row["operator"], []).append(row)
    lines = [_line(operator, group) for operator, group in sorted(groups.items())]
    return [*lines, _line("all", result["rows"])]


def _line(operator: str, group: Sequence[Mapping[str, Any]]) -> tuple[object, ...]:
    counts = Counter(row["verdict"] for row in group)
    frozen = sum(1 for row in group if row["verdict"] == "pass" and row["frozen"])
    peers = Counter(
        who for row in group for who, v in row["against"].items() if v["verdict"] == "pass"
    )
    others = (peers[who] for who in group[0]["against"])
    return (operator, len(group), *(counts[v] for v in VERDICTS), frozen, *others)


def failures(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The cases that do not pass: name, verdict and why."""
    return [
        (row["name"], row["verdict"], row["reason"])
        for row in result["rows"]
        if row["verdict"] != "pass"
    ]


def document(result: Mapping[str, Any], version: str) -> str:
    """`docs/onnx-conformance.md`."""
    summary = result["summary"]
    text = [
        "# ONNX conformance",
        "",
        "Written by `make conformance`; do not edit.",
        "",
        f"The {summary['total']} tests of single operators that come with onnx {version}, through "
        "capture, compile, load and run on this project's `native` target. A result must have the "
        "right type and shape, and be within ONNX's own rtol of 1e-3 and an atol of 1e-5; of "
        "numbers that are drawn at random, only type and shape count. "
        "*Unsupported* is refused with a reason, *crash* is any other error. *Frozen* of those "
        "that pass did so only after inputs whose values decide the graph (axes, shapes, …) were "
        "made constants, as `nexusc compile --freeze` does; an input is frozen only after the "
        "compiler asked for its value; of a sequence or an optional it is how many elements it "
        "has. *tvm* is TVM's own importer (`tvm.relax.frontend.onnx`) with its default CPU build; "
        "where it fails, it gets another try with all small inputs but the first as constants.",
        "",
    ]
    text += [*_markdown(("", *VERDICTS, "total"), _totals(result)), ""]
    text += ["## By operator", "", *_markdown(head(result), rows(result)), ""]
    reasons = Counter(
        (row["operator"], row["verdict"], _short(row["reason"]))
        for row in result["rows"]
        if row["verdict"] != "pass"
    )
    lines = [(*key, count) for key, count in sorted(reasons.items())]
    text += ["## What does not pass", ""]
    text += _markdown(("operator", "verdict", "reason", "cases"), lines)
    left = {row["operator"] for row in result["rows"] if row["verdict"] != "pass"}
    for heading, (operators, note) in NOTES.items():
        if left & operators:
            text += ["", f"### {heading}", "", note]
    return "\n".join(text) + "\n"


def _totals(result: Mapping[str, Any]) -> list[tuple[object, ...]]:
    lines = [(OURS, result["summary"]), *result["against"].items()]
    return [(name, *(s[v] for v in VERDICTS), s["total"]) for name, s in lines]


def _short(reason: str) -> str:
    # The names of nodes and places of elements differ between cases of one kind.
    text = reason.partition(" cannot be translated: ")[2] or reason
    text = text.partition(", first at")[0].replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= 120 else text[:117] + "…"


def _markdown(names: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    ruler = "|".join("---" for _ in names)
    body = ("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return ["| " + " | ".join(names) + " |", f"|{ruler}|", *body]
