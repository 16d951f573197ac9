"""LSTM, GRU and RNN of PyTorch as loops, where writing all steps out would be long or impossible.

PyTorch has no operator for the steps of one layer: its decompositions write them out. While a
model is traced, `as_loops` puts our own operator into the graph in their place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch.nn import functional
from tvm import relax

from nexus_compiler.frontend.torch import loops
from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R

WRITTEN_OUT = 32
"""So many steps are written out: a step of a loop costs about 10 us more, a step of code must be
compiled, and not every room can build loops."""

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_LIBRARY = torch.library.Library("nexus", "FRAGMENT")
_LIBRARY.define(
    "recurrent(Tensor inputs, Tensor[] state, Tensor weight, Tensor? bias, str mode, bool reverse)"
    " -> Tensor[]"
)


@torch.library.register_fake("nexus::recurrent", lib=_LIBRARY)
def _fake(
    inputs: Any, state: Sequence[Any], weight: Any, bias: Any, mode: str, reverse: bool
) -> list[Any]:
    del weight, bias, mode, reverse
    rows = inputs.new_empty([*inputs.shape[:2], state[0].shape[1]])
    return [rows, *(torch.empty_like(one) for one in state)]


@contextlib.contextmanager
def as_loops() -> Generator[None]:
    """Trace layers in evaluation mode whose steps are many, or of a dynamic number, as loops."""
    functions: Any = torch._VF  # pyright: ignore[reportPrivateUsage]
    try:
        for mode in _GATES:
            setattr(functions, mode, _replacement(mode, getattr(functions, mode)))
        yield
    finally:
        for mode in _GATES:
            vars(functions).pop(mode, None)


def _replacement(mode: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        packed = not isinstance(args[3], bool)  # a PackedSequence has its lengths in between
        if packed or args[6] or not _is_long(args[0], batch_first=args[8]):
            return original(*args)
        states = list(args[1]) if mode == "lstm" else [args[1]]
        if len({state.shape[2] for state in states}) > 1:  # with a projection
            return original(*args)
        return _layers(mode, args[0], states, args[2], args[3], args[4], args[7], args[8])

    return call


def _is_long(x: Any, *, batch_first: bool) -> bool:
    steps = x.shape[1 if batch_first else 0]
    return isinstance(steps, torch.SymInt) or steps > WRITTEN_OUT


def _layers(
    mode: str,
    x: Any,
    states: list[Any],
    weights: Sequence[Any],
    biased: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    x = x.transpose(0, 1) if batch_first else x
    directions, each = 1 + bidirectional, 4 if biased else 2
    lasts: list[list[Any]] = []
    for layer in range(layers):
        rows: list[Any] = []
        for direction in range(directions):
            place = layer * directions + direction
            own = weights[place * each : (place + 1) * each]
            first = [state[place] for state in states]
            out, *last = _direction(mode, x, first, own, direction == 1)
            rows.append(out)
            lasts.append(last)
        x = torch.cat(rows, -1) if bidirectional else rows[0]
    out = x.transpose(0, 1) if batch_first else x
    return (out, *(torch.stack(column) for column in zip(*lasts)))


def _direction(mode: str, x: Any, state: list[Any], weights: Any, reverse: bool) -> list[Any]:
    inputs, weight, *biases = weights
    late = None
    bias = biases[0] if biases else None
    if biases and mode == "gru":
        late = biases[1]  # its part for the new state is added before the gate
    elif biases:
        bias = biases[0] + biases[1]
    # One product for all steps; a loop would read these weights anew with every step.
    product = functional.linear(x, inputs, bias)
    return torch.ops.nexus.recurrent(product, state, weight, late, mode, reverse)


@op("nexus::recurrent")
def recurrent(node: Node) -> list[Any]:
    """[steps, batch, hidden], the states; and the last ones."""
    inputs, state, reverse = node["inputs"], node["state"], node["reverse"]
    weight = node.emit(R.permute_dims(node["weight"], [1, 0]))
    steps = node.scalar(node.shape[0], "int64")
    final = node.emit(R.subtract(steps, node.scalar(1, "int64"))) if reverse else None

    def step(place: relax.Var, inner: Sequence[relax.Var]) -> tuple[list[Any], list[Any]]:
        time = place if final is None else node.emit(R.subtract(final, place))
        now = node.emit(R.take(inputs, time, 0, mode="clip"))
        product = node.emit(R.matmul(inner[0], weight))
        after = [node.emit(one) for one in _CELLS[node["mode"]](node, now, product, inner)]
        return after, after[:1]

    last, (rows,) = loops.repeat(node, node["mode"], state, steps, step)
    return [node.emit(R.flip(rows, 0)) if reverse else rows, *last]


def _lstm(node: Node, now: Any, product: Any, state: Sequence[Any]) -> list[Any]:
    taken, kept, new, shown = _split(node, R.add(now, product), 4)
    added = R.multiply(R.sigmoid(taken), R.tanh(new))
    cell = node.emit(R.add(R.multiply(R.sigmoid(kept), state[1]), added))
    return [R.multiply(R.sigmoid(shown), R.tanh(cell)), cell]


def _gru(node: Node, now: Any, product: Any, state: Sequence[Any]) -> list[Any]:
    if "bias" in node:
        product = node.emit(R.add(product, node["bias"]))
    reset, update, new = _split(node, now, 3)
    own_reset, own_update, own_new = _split(node, product, 3)
    reset = R.sigmoid(R.add(reset, own_reset))
    update = R.sigmoid(R.add(update, own_update))
    new = node.emit(R.tanh(R.add(new, R.multiply(reset, own_new))))
    return [R.add(new, R.multiply(update, R.subtract(state[0], new)))]


def _split(node: Node, x: Any, parts: int) -> list[relax.Var]:
    whole = node.emit(R.split(node.emit(x), parts, 1))
    return [node.emit(relax.TupleGetItem(whole, place)) for place in range(parts)]


_CELLS: dict[str, Callable[[Node, Any, Any, Sequence[Any]], list[Any]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": lambda _node, now, product, _state: [R.tanh(R.add(now, product))],
    "rnn_relu": lambda _node, now, product, _state: [R.nn.relu(R.add(now, product))],
}
