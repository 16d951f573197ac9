"""What differs between two records of regions, down to the attribute."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nexus_compiler.passes.record import Node, Place, Record

_MOST = 3
"""Differences of one region that are told."""


@dataclass(frozen=True)
class Change:
    """A place in two records; None where one has no such place."""

    before: Place | None
    after: Place | None
    reason: str


def changes(before: Record, after: Record) -> list[Change]:
    """Every place of both, in the order of `after`; the reason is "" where nothing differs.

    Places are matched in order, by what stands there and where in the model it comes from (after
    Myers, "An O(ND) difference algorithm", 1986, as difflib has it).
    """
    found: list[Change] = []
    old, new = [p.region for p in before.places], [p.region for p in after.places]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            found += [Change(x, y, "") for x, y in zip(before.places[a:b], after.places[c:d])]
        else:
            found += _replaced(before, before.places[a:b], after, after.places[c:d])
    return found


def _replaced(
    before: Record, old: Sequence[Place], after: Record, new: Sequence[Place]
) -> Iterator[Change]:
    """Places that differ: those of one origin belong together, then those of like operators."""
    left = list(old)
    for place in new:
        twin = _twin(place, left, before, after)
        if twin is None:
            yield Change(None, place, "new")
            continue
        left.remove(twin)
        reason = "; ".join(differences(before.regions[twin.region], after.regions[place.region]))
        yield Change(twin, place, reason)
    for place in left:
        yield Change(place, None, "gone")


def _twin(place: Place, old: Sequence[Place], before: Record, after: Record) -> Place | None:
    own = [node.operator for node in after.regions[place.region]]

    def likeness(other: Place) -> float:
        theirs = [node.operator for node in before.regions[other.region]]
        alike = difflib.SequenceMatcher(None, theirs, own, autojunk=False).ratio()
        return alike + (other.origin == place.origin)

    best = max(old, key=likeness, default=None)
    # Half of the operators, or the same modules.
    return best if best is not None and likeness(best) >= 0.5 else None


def differences(before: Sequence[Node], after: Sequence[Node]) -> list[str]:
    """The first few differences of two regions, as phrases."""
    found: list[str] = []
    old, new = [node.operator for node in before], [node.operator for node in after]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            for one, other in zip(before[a:b], after[c:d]):
                found += _within(one, other)
        elif tag == "replace" and b - a == d - c:
            found += [f"operator {x} → {y}" for x, y in zip(old[a:b], new[c:d])]
        else:
            found += [f"operator {name} gone" for name in old[a:b]]
            found += [f"operator {name} new" for name in new[c:d]]
    told = list(dict.fromkeys(found))
    more = [f"and {len(told) - _MOST} more"] if len(told) > _MOST else []
    return told[:_MOST] + more or ["other sizes or constants"]


def _within(before: Node, after: Node) -> Iterator[str]:
    yield from _values("attr", before.attributes, after.attributes, before.operator)
    if len(before.reads) != len(after.reads):
        yield f"{before.operator} reads {len(before.reads)} → {len(after.reads)} operands"
    for one, other in zip(before.reads, after.reads):
        if one != other and not (one.startswith("%") and other.startswith("%")):
            kind = one.split(" ")[0]
            shared = f"{kind} " if other.startswith(f"{kind} ") else ""
            yield f"{shared}{one.removeprefix(shared)} → {other.removeprefix(shared)}"
    if before.makes != after.makes:
        yield f"{before.operator} {before.makes} → {after.makes}"


def _values(
    what: str, before: Mapping[str, str], after: Mapping[str, str], where: str = ""
) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, "none"), after.get(name, "none")
        if one != other:
            yield f"{what} {name} {_short(one)} → {_short(other)}" + (
                f" of {where}" if where else ""
            )


def factors(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The factors beside the regions that differ, as phrases."""
    return list(_values("factor", before, after))


def _short(value: str, most: int = 48) -> str:
    return value if len(value) <= most else f"{value[: most - 1]}…"
