"""Operators of PyTorch that call graphs: modes, conditions, scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import loops
from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.slicing import cut
from nexus_compiler.frontend.torch.values import R

LONGEST = 512
"""So many steps of a scan are written out."""


def _inline(arguments_from: int) -> Callable[[Node], Any]:
    """A mode of PyTorch that matters no more once it has been traced: only the graph counts."""

    def handler(node: Node) -> Any:
        arguments = [node.importer.value(argument) for argument in node.fx.args]
        return node.importer.inline(arguments[arguments_from - 1], arguments[arguments_from:])

    return handler


def condition(node: Node) -> list[Any]:
    """`torch.cond`: both branches are computed (they change nothing), and one is taken."""
    flag, then, otherwise, operands = (node.importer.value(a) for a in node.fx.args)
    if isinstance(flag, bool):
        return node.importer.inline(then if flag else otherwise, operands)
    if not isinstance(flag, relax.Expr):
        raise node.refuse("its condition is about sizes", "compare tensors, or branch in Python")
    pairs = zip(*(node.importer.inline(one, operands) for one in (then, otherwise)))
    flag = node.reshape(node.cast(flag, "bool"), [])
    return [node.emit(R.where(flag, a, b)) if isinstance(a, relax.Expr) else a for a, b in pairs]


def scan(node: Node) -> list[Any]:
    """`torch.scan`: a step for each element of the first axis, one after another."""
    step, state, sequences, *more = (node.importer.value(a) for a in node.fx.args)
    given: Any = node.fx.args[2]
    fakes = [argument.meta["val"] for argument in given]
    length = fakes[0].shape[0]
    if not isinstance(length, int) or not 0 < length <= LONGEST:
        raise node.refuse(f"it has {length} steps; fixed numbers up to {LONGEST} can be compiled")
    rows: list[list[Any]] = []
    for place in range(length):
        now = [
            node.reshape(cut(node, x, 0, place, place + 1), list(fake.shape[1:]))
            for x, fake in zip(sequences, fakes)
        ]
        results = node.importer.inline(step, [*state, *now, *(more[0] if more else ())])
        state, row = results[: len(state)], results[len(state) :]
        rows.append([node.emit(R.expand_dims(one, [0])) for one in row])
    return [*state, *(node.emit(R.concat(list(column), 0)) for column in zip(*rows))]


def while_loop(node: Node) -> list[Any]:
    """`torch.while_loop`: steps as long as a condition on the state holds."""
    condition, step, state, others = (node.importer.value(a) for a in node.fx.args)
    if not all(isinstance(value, relax.Expr) for value in state):
        raise node.refuse("a number is part of its state", "make it a tensor: torch.tensor(0)")

    def going(now: Sequence[relax.Expr]) -> relax.Expr:
        (flag,) = node.importer.inline(condition, [*now, *others])
        return node.reshape(node.cast(flag, "bool"), [])

    def after(now: Sequence[relax.Expr]) -> list[Any]:
        return node.importer.inline(step, [*now, *others])

    drawn = node.importer.streams
    last = loops.repeat_while(node, "while_loop", state, going, after)
    if node.importer.streams > drawn:
        raise node.refuse("each of its steps would draw the same random numbers")
    return list(last)


HIGHER_ORDER: dict[str, Callable[[Node], Any]] = {
    "cond": condition,
    "scan": scan,
    "while_loop": while_loop,
    "wrap_with_set_grad_enabled": _inline(2),
    "wrap_with_autocast": _inline(5),
}
