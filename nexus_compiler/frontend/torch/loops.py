"""Loops: private functions that call themselves, as the ONNX importer makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, tirx

from nexus_compiler.frontend.onnx import recursion, subgraph
from nexus_compiler.frontend.onnx.loop import Body, Turn
from nexus_compiler.frontend.onnx.sizes import Sizes
from nexus_compiler.frontend.torch.importer import Importer
from nexus_compiler.frontend.torch.node import Node, dtype_of

Step = Callable[[relax.Var, Sequence[relax.Var]], tuple[Sequence[Any], Sequence[Any]]]
"""Emits one step: of its number (an int64 scalar) and the state; the next state, and a row."""


def repeat_while(
    node: Node,
    label: str,
    state: Sequence[relax.Expr],
    going: Callable[[Sequence[relax.Expr]], relax.Expr],
    step: Callable[[Sequence[relax.Expr]], Sequence[relax.Expr]],
) -> list[relax.Var]:
    """Emit a loop that takes a `step` as long as `going` (a bool scalar) of the state; the last."""
    host: Any = _Host(node.importer)

    def turn(place: relax.Var, inner: Sequence[relax.Var]) -> Turn:
        del place
        after = step(inner)
        return Turn(going(after), after)

    first = going(state)
    body = Body(host, label, state, turn, conditional=True)
    return recursion.repeat(host, body, None, state, first)[0]


def repeat(
    node: Node, label: str, state: Sequence[relax.Expr], steps: relax.Expr, step: Step
) -> tuple[list[relax.Var], list[relax.Var]]:
    """Emit a loop of `steps` (an int64 scalar); the last state, and the rows of all steps."""
    host: Any = _Host(node.importer)

    def turn(place: relax.Var, inner: Sequence[relax.Var]) -> Turn:
        after, rows = step(place, inner)
        return Turn(None, after, rows)

    body = Body(host, label, state, turn)
    return recursion.repeat(host, body, steps, state)


class _Host:
    """An importer as the functions of loops see it."""

    def __init__(self, importer: Importer) -> None:
        self._importer = importer
        if importer.private is None:
            importer.private = subgraph.Table()
        self.private = importer.private
        self.sizes = Sizes()
        self.unknowns: list[set[tirx.Var]] = [set()]
        self.random = self
        self.emit = importer.emit
        self.match = importer.shapes.match

    @property
    def builder(self) -> relax.BlockBuilder:
        return self._importer.builder

    @builder.setter
    def builder(self, builder: relax.BlockBuilder) -> None:
        self._importer.builder = builder

    @property
    def parameters(self) -> dict[str, Any]:
        return self._importer.constants

    @parameters.setter
    def parameters(self, parameters: dict[str, Any]) -> None:
        self._importer.constants = parameters

    def repeated(self, step: relax.Expr) -> contextlib.AbstractContextManager[None]:
        del step  # nothing in these loops is random
        return contextlib.nullcontext()

    def unknown(self, name: str) -> tirx.Var:
        variable = self.sizes.variable(name, 0)
        self.unknowns[-1].add(variable)
        return variable

    def dtype(self, value: relax.Expr) -> str:
        return dtype_of(value)
