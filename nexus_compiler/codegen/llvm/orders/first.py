"""Finds the first few of the keys of one row without sorting the others.

Very few: as often as there are to be found, the smallest key and the first place that holds it.
More: the row is dealt to groups, whose smallest keys are found by vectors. The k-th smallest of
these is no smaller than the k-th smallest key, so what is beyond it need not be sorted; where
there are four groups to each wanted key, hardly more than k are left.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from nexus_compiler.codegen.llvm.orders.rows import PLACE, Row, local, narrow, put, wide
from nexus_compiler.codegen.llvm.schedules import build

_FEWEST, _PER_KEY = 64, 4  # groups, at least and for each wanted key
_TURNS, _SHORT = 8, 256  # wanted keys, and keys of a row, up to which searching is the fastest
_BLOCK = 64  # keys that are looked at together


def groups(wanted: int) -> int:
    """Into how many groups a row is dealt."""
    return max(_FEWEST, 1 << (_PER_KEY * wanted - 1).bit_length())


def is_search(wanted: int, count: Any) -> bool:
    """Whether so few of so short a row are wanted that each is searched for."""
    return wanted <= _TURNS and (build.known(count) or _SHORT + 1) <= _SHORT


def is_selection(wanted: int, count: Any) -> bool:
    """Whether the row is long enough for groups."""
    exact = build.known(count)
    return exact is None or exact >= 4 * groups(wanted)


def search(row: Row, wanted: int, count: Any, last: Any) -> tirx.Stmt:
    """The places of the first `wanted` keys, in order; found keys become `last`, which none is."""
    best, place = local(1, row.kind, "best"), local(1, PLACE, "place")
    end = tirx.max_value(PLACE)

    def one(turn: Any) -> tirx.Stmt:
        smaller = lambda i: put(best, 0, tirx.min(best[0], row.keys[i]))  # noqa: E731
        here = lambda i: tirx.Select(row.keys[i] == best[0], narrow(i), end)  # noqa: E731
        return build.sequence(
            [
                put(best, 0, last),
                build.loop(count, smaller),
                put(place, 0, end),
                build.loop(count, lambda i: put(place, 0, tirx.min(place[0], here(i)))),
                put(row.keys, wide(place[0]), last),
                put(row.places, turn, place[0]),
            ]
        )

    steps = [put(row.side, 0, tirx.const(0, "int64")), build.loop(wanted, one)]
    return build.scope([best, place], build.sequence(steps), "search")


def select(row: Row, wanted: int, count: Any, found: tirx.Buffer) -> tirx.Stmt:
    """Bring all keys that may be among the first `wanted` to the front; `found[0]` of them."""
    many = groups(wanted)
    least, bound = local(many, row.kind, "least"), local(1, row.kind, "bound")
    steps = [
        _smallest_of_groups(row, least, many, count),
        _bound(row, least, bound, many, wanted),
        put(found, 0, tirx.const(0, "int64")),
        _keep(row, bound, count, found),
    ]
    return build.scope([least, bound], build.sequence(steps), "selection")


def _smallest_of_groups(row: Row, least: tirx.Buffer, many: int, count: Any) -> tirx.Stmt:
    """Key number i belongs to group i modulo `many`."""
    whole, count = tirx.floordiv(build.number(count), many), build.number(count)

    def deal(first: Any, size: Any) -> tirx.Stmt:
        return build.loop(size, lambda g: put(least, g, tirx.min(least[g], row.keys[first + g])))

    return build.sequence(
        [
            build.loop(many, lambda g: put(least, g, tirx.max_value(row.kind))),
            build.loop(whole, lambda turn: deal(turn * many, many)),
            deal(whole * many, tirx.floormod(count, many)),
        ]
    )


def _bound(row: Row, least: tirx.Buffer, bound: tirx.Buffer, many: int, wanted: int) -> tirx.Stmt:
    """The smallest number that no fewer than `wanted` groups reach, bit by bit.

    Numbers stand in buffers: TVM would make variables beside loop counters wider, with other bits.
    """
    kind = row.kind
    bits, last = tvm.DataType(kind).bits, tirx.max_value(kind)
    reached, bit, tried = local(1, PLACE, "reached"), local(1, kind, "bit"), local(1, kind, "tried")
    one, none = tirx.const(1, PLACE), tirx.const(0, PLACE)

    def count(g: Any) -> tirx.Stmt:
        return put(reached, 0, reached[0] + tirx.Select(least[g] <= tried[0], one, none))

    def step(_: Any) -> tirx.Stmt:
        enough = reached[0] >= tirx.const(wanted, PLACE)
        halved = tirx.bitwise_and(tirx.shift_right(bit[0], tirx.const(1, kind)), last)
        return build.sequence(
            [
                # Taking a bit away makes a number smaller; so does giving it the sign.
                put(tried, 0, tirx.bitwise_xor(bound[0], bit[0])),
                put(reached, 0, none),
                build.loop(many, count),
                put(bound, 0, tirx.Select(enough, tried[0], bound[0])),
                put(bit, 0, halved),
            ]
        )

    begin = [put(bound, 0, last), put(bit, 0, tirx.min_value(kind))]
    body = build.sequence([*begin, build.loop(bits, step)])
    return build.scope([reached, bit, tried], body, "bound")


def _keep(row: Row, bound: tirx.Buffer, count: Any, found: tirx.Buffer) -> tirx.Stmt:
    count = build.number(count)
    whole = tirx.floordiv(count, _BLOCK)
    best = local(1, row.kind, "best")

    def keep(i: Any) -> tirx.Stmt:
        # What is not kept is written over; keys move to the front only.
        key, to = tirx.Var("key", row.kind), tirx.Var("to", "int64")
        return build.sequence(
            [
                tirx.Bind(key, row.keys[i]),
                tirx.Bind(to, found[0]),
                put(row.keys, to, key),
                put(row.places, to, narrow(i)),
                put(found, 0, to + wide(key <= bound[0])),
            ]
        )

    def block(turn: Any) -> tirx.Stmt:
        first = turn * _BLOCK
        smaller = lambda i: put(best, 0, tirx.min(best[0], row.keys[first + i]))  # noqa: E731
        return build.sequence(
            [
                put(best, 0, tirx.max_value(row.kind)),
                build.loop(_BLOCK, smaller),
                build.branch(best[0] <= bound[0], build.loop(_BLOCK, lambda i: keep(first + i))),
            ]
        )

    steps = [
        build.loop(whole, block),
        build.loop(tirx.floormod(count, _BLOCK), lambda i: keep(whole * _BLOCK + i)),
    ]
    return build.scope([best], build.sequence(steps), "keep")
