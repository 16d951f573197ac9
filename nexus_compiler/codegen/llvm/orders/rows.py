"""Sorts the keys of one row: by counting for few, by digits for many, by selection for the first.

Few keys: the place of each is how many come before it, which is a sum over vectors without a
branch. Many: a radix sort of 8 bits a pass, from the lowest digit on (Knuth, The Art of Computer
Programming, vol. 3, 5.2.5); passes over a digit that all keys share are left out. Both are stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build

PLACE = "int32"
FEW = 128  # keys; counting takes the square of it, digits a constant of about a microsecond
_ONE_LOOP = 32  # keys so few that two loops over a part of them each are slower
_DIGIT = 8
_VALUES = 1 << _DIGIT


def local(size: Any, dtype: str, name: str) -> tirx.Buffer:
    """Memory of one task."""
    return tirx.decl_buffer((build.number(size),), dtype, name, scope="local")


def put(buffer: tirx.Buffer, place: Any, value: Any) -> tirx.Stmt:
    """`buffer[place] = value`."""
    return tirx.BufferStore(buffer, value, [build.number(place)])


def narrow(value: Any) -> Any:
    """A place as it is kept."""
    return tirx.Cast(PLACE, value)


def wide(value: Any) -> Any:
    """A place, or a flag, as an index."""
    return tirx.Cast("int64", value)


@dataclass(frozen=True)
class Row:
    """Room for `most` keys and their places, twice: what is sorted stands from `begin` on.

    `count` of them are there, from 0 on; before they are sorted they are in the order of places.
    """

    kind: str
    bits: int
    most: Any
    keys: tirx.Buffer
    places: tirx.Buffer
    side: tirx.Buffer

    @staticmethod
    def of(kind: str, bits: int, most: Any) -> Row:
        """New room."""
        keys, places = local(2 * most, kind, "keys"), local(2 * most, PLACE, "places")
        return Row(kind, bits, most, keys, places, local(1, "int64", "side"))

    @property
    def buffers(self) -> list[tirx.Buffer]:
        """To be set aside around what uses the row."""
        return [self.keys, self.places, self.side]

    @property
    def begin(self) -> Any:
        """Where the sorted places stand in `places`, once `sort` has run."""
        return self.side[0] * self.most


def sort(row: Row, count: Any) -> tirx.Stmt:
    """Put the places of `count` keys in order; those of equal keys stay as they are."""
    exact = build.known(count)
    if exact is not None:
        return _by_counting(row, count, exact) if exact <= FEW else _by_digits(row, count)
    few = _by_counting(row, count, FEW)
    if (most := build.known(row.most)) is not None and most <= FEW:
        return few
    return build.branch(count <= build.number(FEW), few, _by_digits(row, count))


def _by_counting(row: Row, count: Any, most: int) -> tirx.Stmt:
    before = local(max(most, 1), PLACE, "before")
    keys, one, none = row.keys, tirx.const(1, PLACE), tirx.const(0, PLACE)

    def ahead(j: Any, i: Any) -> Any:
        equal = tirx.And(keys[j] == keys[i], j <= i)
        return tirx.Select(tirx.Or(keys[j] < keys[i], equal), one, none)

    def compare(j: Any) -> tirx.Stmt:
        if most <= _ONE_LOOP:
            return build.loop(count, lambda i: put(before, i, before[i] + ahead(j, i)))

        def later(i: Any) -> tirx.Stmt:
            return put(before, i, before[i] + tirx.Select(keys[j] < keys[i], one, none))

        def equal(i: Any) -> tirx.Stmt:
            place = i + j
            return put(
                before, place, before[place] + tirx.Select(keys[j] <= keys[place], one, none)
            )

        # Of equal keys the earlier one comes before the later one.
        return build.sequence([build.loop(j, later), build.loop(count - j, equal)])

    def move(i: Any) -> tirx.Stmt:
        # Each key has counted itself.
        return put(row.places, row.most + wide(before[i]) - 1, row.places[i])

    steps = [
        build.loop(count, lambda i: put(before, i, none)),
        build.loop(count, compare),
        build.loop(count, move),
        put(row.side, 0, tirx.const(1, "int64")),
    ]
    return build.scope([before], build.sequence(steps), "counting")


def _by_digits(row: Row, count: Any) -> tirx.Stmt:
    passes = -(-row.bits // _DIGIT)
    totals, sum_ = local(passes * _VALUES, PLACE, "totals"), local(1, PLACE, "sum")
    none = tirx.const(0, PLACE)

    def at(key: Any, turn: int) -> Any:
        return build.number(turn * _VALUES) + wide(_digit(row, key, turn))

    def tally(i: Any) -> tirx.Stmt:
        key = tirx.Var("key", row.kind)
        steps: list[tirx.Stmt] = [tirx.Bind(key, row.keys[i])]
        for turn in range(passes):
            place = at(key, turn)
            steps.append(put(totals, place, totals[place] + tirx.const(1, PLACE)))
        return build.sequence(steps)

    steps = [
        build.loop(passes * _VALUES, lambda i: put(totals, i, none)),
        build.loop(count, tally),
        put(row.side, 0, tirx.const(0, "int64")),
    ]
    for turn in range(passes):
        # The first key tells whether all have the same digit.
        same = totals[at(row.keys[row.begin], turn)] >= narrow(count)
        work = build.sequence(
            [_starts(totals, sum_, turn), _scatter(row, totals, count, lambda k, t=turn: at(k, t))]
        )
        steps.append(build.branch(tirx.Not(same), work))
    return build.scope([totals, sum_], build.sequence(steps), "digits")


def _digit(row: Row, key: Any, turn: int) -> Any:
    """Digit number `turn` of `key` from the right; that with the sign is in order, too."""
    wanted = tirx.bitwise_and(
        tirx.shift_right(key, tirx.const(turn * _DIGIT, row.kind)),
        tirx.const(_VALUES - 1, row.kind),
    )
    if (turn + 1) * _DIGIT >= row.bits:
        wanted = tirx.bitwise_xor(wanted, tirx.const(_VALUES // 2, row.kind))
    return wanted


def _starts(totals: tirx.Buffer, sum_: tirx.Buffer, turn: int) -> tirx.Stmt:
    """Make of how often each digit comes where its first key goes."""

    def step(i: Any) -> tirx.Stmt:
        own, place = tirx.Var("own", PLACE), build.number(turn * _VALUES) + i
        return build.sequence(
            [
                tirx.Bind(own, totals[place]),
                put(totals, place, sum_[0]),
                put(sum_, 0, sum_[0] + own),
            ]
        )

    return build.sequence([put(sum_, 0, tirx.const(0, PLACE)), build.loop(_VALUES, step)])


def _scatter(row: Row, totals: tirx.Buffer, count: Any, at: Any) -> tirx.Stmt:
    begin, other = tirx.Var("begin", "int64"), tirx.Var("other", "int64")

    def move(i: Any) -> tirx.Stmt:
        key, start = tirx.Var("key", row.kind), tirx.Var("start", PLACE)
        digit = tirx.Var("digit", "int64")
        return build.sequence(
            [
                tirx.Bind(key, row.keys[begin + i]),
                tirx.Bind(digit, at(key)),
                tirx.Bind(start, totals[digit]),
                put(totals, digit, start + tirx.const(1, PLACE)),
                put(row.keys, other + wide(start), key),
                put(row.places, other + wide(start), row.places[begin + i]),
            ]
        )

    return build.sequence(
        [
            tirx.Bind(begin, row.begin),
            tirx.Bind(other, row.most - begin),
            build.loop(count, move),
            put(row.side, 0, tirx.const(1, "int64") - row.side[0]),
        ]
    )
