"""Counts, as a table for people and as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_compiler.verify.conformance.worker import OURS, Verdict

VERDICTS = ("pass", "wrong", "unsupported", "crash")

_NOTES = {
    "Attention": "All of these are in 16 bits. The rtol of 1e-3 asks for equal bits of bfloat16, "
    "whose steps are 2^-8 to 2^-7 of a number, and allows one step of float16. What a case "
    "expects comes from NumPy, whose sums of such numbers are rounded after additions. Ours are "
    "rounded between the operators of ONNX's definition, as it says, but summed in float32, and "
    "come out nearer to the truth: in test_attention_4d_causal_bf16 the mean distance to the "
    "result in float64 is 5.1e-4, that of what is expected 8.9e-4; and the result in float64, "
    "rounded once, itself fails in 48 of the 192 elements. So these cases do not pass, and are "
    "not made to."
}
"""Why results of an operator differ and stay so."""

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
    wrong = {row["operator"] for row in result["rows"] if row["verdict"] == "wrong"}
    for operator in sorted(wrong & set(_NOTES)):
        text += ["", f"### {operator}", "", _NOTES[operator]]
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
