"""LSTM, GRU and RNN: the products with the inputs of all steps at once, the rest in a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import cells
from nexus_compiler.frontend.onnx.loop import Body, Turn
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.quantize import MICROSOFT
from nexus_compiler.frontend.onnx.recursion import repeat
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, host


@dataclass(frozen=True)
class Sequences:
    """The inputs, steps first.

    Attributes:
        x: [steps, batch, features].
        lengths: how many steps each sequence of the batch has, an int tensor; None: all.
        hidden: the size of the state.
    """

    x: relax.Expr
    steps: Size
    batch: Size
    lengths: relax.Expr | None
    hidden: int
    dtype: str


Pass = tuple[relax.Expr | None, list[relax.Expr]]
"""What one direction gives: the state after every step, [steps, batch, hidden]; the last state."""


@op("RNN")
def rnn(node: Node) -> list[Value]:
    """h' = f(x W + h R + b)."""
    return _run(node, 1, cells.rnn)


@op("GRU")
def gru(node: Node) -> list[Value]:
    """Gates z (keep), r (reset), h (new)."""
    return _run(node, 3, cells.gru)


@op("LSTM")
def lstm(node: Node) -> list[Value]:
    """Gates i, o, f, c, and a second state, the cell."""
    return _run(node, 4, cells.lstm)


@op(cells.QUANTIZED, domain=MICROSOFT)
def dynamic_lstm(node: Node) -> list[Value]:
    """An LSTM whose weights are quantised, and inputs and states before each product.

    The range of states is that of the whole batch in one step. ONNX Runtime takes parts of the
    batch by threads, and sequences of unequal lengths from their ends where it goes backwards;
    the steps of quantisation may differ by that.
    """
    return _run(node, 4, cells.lstm)


def _run(node: Node, gates: int, make: Callable[[Node, cells.Weights], cells.Cell]) -> list[Value]:
    batch_first = bool(node.attr("layout", 0))
    if not node.domain and node.opset < 7:
        raise node.refuse("before opset 7 it is another operator", "convert the model to opset 7")
    sequences = _sequences(node, gates, batch_first)
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    passes: list[Pass] = []
    for number, backwards in enumerate(directions[node.attr("direction", "forward")]):
        weights = cells.weights(node, gates, number, sequences.hidden)
        cell = make(node, weights)
        state = [_initial(node, sequences, i, number, batch_first) for i in _states(node)]
        passes.append(_direction(node, sequences, cell, state, backwards))
    return _outputs(node, passes, batch_first)


def _states(node: Node) -> list[int]:
    """The inputs that hold the first state."""
    return [5, 6] if node.kind in {"LSTM", cells.QUANTIZED} else [5]


def _sequences(node: Node, gates: int, batch_first: bool) -> Sequences:
    x = node.emit(node.tensor(0))
    if batch_first:
        x = node.emit(R.permute_dims(x, [1, 0, 2]))
    steps, batch, _ = node.shape(x)
    # Where weights are quantised, they are stored turned.
    turned = node.kind == cells.QUANTIZED
    rows, columns = node.shape(2)[1 if turned else 2], node.shape(1)[2 if turned else 1]
    hidden = node.attr("hidden_size", rows)
    if hidden != rows or node.sizes.equal(columns, gates * hidden) is not True:
        raise node.refuse(f"hidden_size is {hidden}, which its weights do not fit")
    lengths = node.emit(node.tensor(4)) if node.has(4) else None
    if turned and lengths is not None:
        x = _reached(node, x, lengths)
    return Sequences(x, steps, batch, lengths, hidden, node.dtype(x))


def _reached(node: Node, x: relax.Expr, lengths: relax.Expr) -> relax.Expr:
    """`x` with zeros where all sequences are over: their range does not count."""
    last = R.max(R.astype(lengths, "int64"))
    seen = R.less(R.arange(0, node.shape(x)[0], 1, "int64"), node.emit(last))
    return node.emit(R.where(R.expand_dims(seen, [1, 2]), x, node.scalar(0, node.dtype(x))))


def _initial(
    node: Node, sequences: Sequences, index: int, direction: int, batch_first: bool
) -> relax.Expr:
    if not node.has(index):
        return node.emit(R.zeros([sequences.batch, sequences.hidden], sequences.dtype))
    whole = node.tensor(index)
    return cells.part(node, whole, 1 if batch_first else 0, direction)


def _direction(
    node: Node, sequences: Sequences, cell: cells.Cell, state: list[relax.Expr], backwards: bool
) -> Pass:
    # One product for all steps; a loop would begin to read the weights anew with every step.
    inputs = node.emit(R.add(cell.weights.inputs.times(node, sequences.x), cell.bias))
    wanted = bool(node.proto.output[0])

    def step(place: relax.Var, inner: Sequence[relax.Var]) -> Turn:
        time = _mirrored(node, place, sequences.steps) if backwards else place
        now = node.emit(R.take(inputs, time, 0, mode="clip"))
        after = [node.emit(value) for value in cell.step(now, inner)]
        shown = after[0]
        if sequences.lengths is not None:
            time = node.emit(R.astype(time, node.dtype(sequences.lengths)))
            active = node.emit(R.expand_dims(R.less(time, sequences.lengths), [1]))
            shown = R.where(active, shown, node.scalar(0, sequences.dtype))
            after = [R.where(active, new, old) for new, old in zip(after, inner)]
        return Turn(None, after, [shown] if wanted else [])

    body = Body(node.importer, node.kind.lower(), state, step)
    last, rows = repeat(node.importer, body, sequences.steps, state)
    if not wanted:
        return None, list(last)
    return node.emit(R.flip(rows[0], 0)) if backwards else rows[0], list(last)


def _mirrored(node: Node, place: relax.Expr, steps: Size) -> relax.Expr:
    array: Any = np.empty((), object)
    array[()] = node.sizes.simple(steps - 1)
    return node.emit(R.subtract(node.importer.tensor(host(array, "int64")), place))


def _outputs(node: Node, passes: Sequence[Pass], batch_first: bool) -> list[Value]:
    """Y [steps, directions, batch, hidden], and the last states [directions, batch, hidden]."""
    lasts = [last for _, last in passes]
    finals = [_stack(node, [last[i] for last in lasts], 0) for i in range(len(lasts[0]))]
    rows = [row for row, _ in passes if row is not None]
    # Where nobody asks for Y, something must stand in its place.
    every = _stack(node, rows, 1) if rows else finals[0]
    if batch_first:
        finals = [R.permute_dims(final, [1, 0, 2]) for final in finals]
        every = R.permute_dims(every, [2, 0, 1, 3]) if rows else every
    return [every, *finals]


def _stack(node: Node, tensors: Sequence[relax.Expr], axis: int) -> relax.Expr:
    wide = [node.emit(R.expand_dims(tensor, [axis])) for tensor in tensors]
    return node.emit(R.concat(wide, axis)) if len(wide) > 1 else wide[0]
