"""What functions call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tvm import relax
from tvm.ir import BaseFunc, GlobalVar, Op


def values(function: BaseFunc) -> Iterator[Any]:
    """What the bindings of a Relax function compute, in branches too; nothing for a kernel.

    Functions are in normal form: a call stands in a binding, or is the result. TVM's own walk asks
    Python about every node of every argument, which takes fifty times as long.
    """
    waiting: list[Any] = [function.body] if isinstance(function, relax.Function) else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, relax.SeqExpr):
            waiting.append(node.body)
            for block in node.blocks:
                waiting += [binding.value for binding in block.bindings]
        elif isinstance(node, relax.If):
            waiting += [node.true_branch, node.false_branch]
        elif isinstance(node, relax.Function):
            waiting.append(node.body)
        else:
            yield node


def count(function: BaseFunc) -> Counter[str]:
    """How often `function` calls each operator, by name."""
    called = (value.op for value in values(function) if isinstance(value, relax.Call))
    return Counter(str(callee.name) for callee in called if isinstance(callee, Op))


def operators(function: BaseFunc) -> set[str]:
    """The names of all operators that `function` calls."""
    return set(count(function))


def callees(function: BaseFunc) -> set[GlobalVar]:
    """The functions that `function` calls, and those that it hands to what it calls."""
    found: set[GlobalVar] = set()
    for value in values(function):
        parts = (value, getattr(value, "op", None), *getattr(value, "args", ()))
        found |= {part for part in parts if isinstance(part, GlobalVar)}
    return found
