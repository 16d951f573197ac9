"""What one step of a recurrent network computes, once its product with the input is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.qlinear import by_its_range
from nexus_compiler.frontend.onnx.values import R

QUANTIZED = "DynamicQuantizeLSTM"
Activation = Callable[[relax.Expr], relax.Expr]


@dataclass(frozen=True)
class Matrix:
    """What inputs, or states, are multiplied with.

    Attributes:
        values: [rows, columns]; where they are quantised, int32 and less their zero point.
        scale: where they are quantised, their unit: [columns], or one number.
    """

    values: relax.Expr
    scale: relax.Expr | None = None

    def times(self, node: Node, x: relax.Expr) -> relax.Expr:
        """`x` @ values; with a scale, `x` is quantised by its own range."""
        if self.scale is None:
            return node.emit(R.matmul(x, self.values))
        return by_its_range(node, x, self.values, self.scale)


@dataclass(frozen=True)
class Weights:
    """The weights of one direction.

    Attributes:
        number: of the direction.
        inputs: [features, gates * hidden].
        state: [hidden, gates * hidden].
        input_bias: [gates * hidden], or a zero; so is state_bias.
    """

    number: int
    gates: int
    hidden: int
    dtype: str
    inputs: Matrix
    state: Matrix
    input_bias: relax.Expr
    state_bias: relax.Expr


@dataclass(frozen=True)
class Cell:
    """One direction.

    Attributes:
        bias: what to add to the product with the inputs, for all steps alike.
        step: the next state, of that sum for one step and of the state.
    """

    weights: Weights
    bias: relax.Expr
    step: Callable[[relax.Expr, Sequence[relax.Expr]], Sequence[relax.Expr]]


def part(node: Node, x: relax.Expr, axis: int, index: int, size: int = 0) -> relax.Expr:
    """Element `index` of an axis, which goes; with `size`, block `index` of it, which stays."""
    low, high = index * (size or 1), (index + 1) * (size or 1)
    piece = node.emit(R.strided_slice(x, [axis], [low], [high], [1], assume_inbound=True))
    return piece if size else node.emit(R.squeeze(piece, [axis]))


def weights(node: Node, gates: int, number: int, hidden: int) -> Weights:
    """Inputs 1 to 3 (W, R, B) for direction `number`."""
    w, r = (_matrix(node, i, number) for i in (1, 2))
    dtype = node.dtype(0)
    biases = [node.scalar(0, dtype)] * 2
    if node.has(3):
        both = part(node, node.tensor(3), 0, number)
        biases = [part(node, both, 0, i, gates * hidden) for i in range(2)]
    return Weights(number, gates, hidden, dtype, w, r, *biases)


def _matrix(node: Node, index: int, number: int) -> Matrix:
    if node.kind != QUANTIZED:
        turned = R.permute_dims(part(node, node.tensor(index), 0, number), [1, 0])
        return Matrix(node.emit(turned))
    # The scales and zero points of W, then of R; the matrices are not turned here.
    scale, zero = (part(node, node.tensor(2 * index + i), 0, number) for i in (6, 7))
    values = R.astype(part(node, node.tensor(index), 0, number), "int32")
    return Matrix(node.emit(R.subtract(values, R.astype(zero, "int32"))), scale)


def rnn(node: Node, weights: Weights) -> Cell:
    """The plain cell."""
    (f,) = activations(node, weights, ["Tanh"])

    def step(inputs: relax.Expr, state: Sequence[relax.Expr]) -> list[relax.Expr]:
        return [f(node.emit(R.add(inputs, weights.state.times(node, state[0]))))]

    bias = node.emit(R.add(weights.input_bias, weights.state_bias))
    return Cell(weights, bias, step)


def gru(node: Node, weights: Weights) -> Cell:
    """The gated recurrent unit."""
    f, g = activations(node, weights, ["Sigmoid", "Tanh"])
    late = bool(node.attr("linear_before_reset"))
    size, biased = weights.hidden, node.has(3)
    gate_weights, new_weights = _gru_split(node, weights.state.values, 1, size)
    gate_bias, new_bias = weights.state_bias, weights.state_bias
    bias = node.emit(R.add(weights.input_bias, weights.state_bias))
    if late and biased:
        gate_bias, new_bias = _gru_split(node, weights.state_bias, 0, size)
        zeros = R.zeros([size], weights.dtype)
        bias = node.emit(R.add(weights.input_bias, R.concat([gate_bias, zeros], 0)))
    one = node.scalar(1, weights.dtype)

    def step(inputs: relax.Expr, state: Sequence[relax.Expr]) -> list[relax.Expr]:
        h = state[0]
        input_gates, input_new = _gru_split(node, inputs, 1, size)
        gates = f(node.emit(R.add(input_gates, R.matmul(h, gate_weights))))
        update, reset = (part(node, node.emit(gates), 1, i, size) for i in range(2))
        if late:
            product = R.add(R.matmul(h, new_weights), new_bias)
            inner = R.multiply(reset, product)
        else:
            inner = R.matmul(node.emit(R.multiply(reset, h)), new_weights)
        new = node.emit(g(node.emit(R.add(input_new, inner))))
        kept = R.multiply(update, h)
        return [R.add(R.multiply(R.subtract(one, update), new), kept)]

    return Cell(weights, bias, step)


def _gru_split(node: Node, x: relax.Expr, axis: int, size: int) -> tuple[relax.Expr, relax.Expr]:
    """Gates z and r together, and h."""
    both = R.strided_slice(x, [axis], [0], [2 * size], [1], assume_inbound=True)
    return node.emit(both), part(node, x, axis, 2, size)


def lstm(node: Node, weights: Weights) -> Cell:
    """Long short-term memory, with or without peepholes."""
    f, g, h = activations(node, weights, ["Sigmoid", "Tanh", "Tanh"])
    coupled, size = bool(node.attr("input_forget")), weights.hidden
    peep: list[relax.Expr] | None = None
    if node.has(7):
        whole = part(node, node.tensor(7), 0, weights.number)
        peep = [part(node, whole, 0, i, size) for i in range(3)]
    one = node.scalar(1, weights.dtype)

    def step(inputs: relax.Expr, state: Sequence[relax.Expr]) -> list[relax.Expr]:
        hidden, cell = state
        gates = node.emit(R.add(inputs, weights.state.times(node, hidden)))
        i, o, fg, c = (part(node, gates, 1, number, size) for number in range(4))
        if peep:
            i, fg = (R.add(x, R.multiply(p, cell)) for x, p in ((i, peep[0]), (fg, peep[2])))
        i = node.emit(f(node.emit(i)))
        forget = R.subtract(one, i) if coupled else f(node.emit(fg))
        kept = R.multiply(node.emit(forget), cell)
        after = node.emit(R.add(kept, R.multiply(i, g(c))))
        if peep:
            o = R.add(o, R.multiply(peep[1], after))
        return [R.multiply(f(node.emit(o)), h(after)), after]

    bias = node.emit(R.add(weights.input_bias, weights.state_bias))
    return Cell(weights, bias, step)


def _zero(x: relax.Expr) -> relax.Expr:
    return R.zeros_like(x)


def _less_one(x: relax.Expr) -> relax.Expr:
    """exp(x) - 1, for x below 0."""
    return R.subtract(R.exp(R.minimum(x, _zero(x))), R.ones_like(x))


# Activation functions: how they use alpha and beta, and what these are by default.
_FUNCTIONS: dict[str, tuple[Callable[..., relax.Expr], tuple[float, ...]]] = {
    "affine": (lambda x, a, b: R.add(R.multiply(x, a), b), (1.0, 0.0)),
    "elu": (lambda x, a: R.where(R.greater(x, _zero(x)), x, R.multiply(a, _less_one(x))), (1.0,)),
    "hardsigmoid": (
        lambda x, a, b: R.clip(R.add(R.multiply(x, a), b), 0, 1),
        (0.2, 0.5),
    ),
    "leakyrelu": (lambda x, a: R.where(R.less(x, _zero(x)), R.multiply(x, a), x), (0.01,)),
    "relu": (R.nn.relu, ()),
    "scaledtanh": (lambda x, a, b: R.multiply(R.tanh(R.multiply(x, b)), a), (1.0, 1.0)),
    "sigmoid": (R.sigmoid, ()),
    "softplus": (R.nn.softplus, ()),
    "softsign": (lambda x: R.divide(x, R.add(R.ones_like(x), R.abs(x))), ()),
    "tanh": (R.tanh, ()),
    "thresholdedrelu": (lambda x, a: R.where(R.greater(x, a), x, _zero(x)), (1.0,)),
}


def activations(node: Node, weights: Weights, default: Sequence[str]) -> list[Activation]:
    """The functions of one direction, behind the limit `clip`; names are taken in any case."""
    names: list[str] = node.attr("activations") or list(default) * (weights.number + 1)
    alphas, betas = (list(node.attr(f"activation_{n}") or []) for n in ("alpha", "beta"))
    clip: float | None = node.attr("clip")
    found: list[Activation] = []
    count = len(default)
    for place, name in enumerate(names):
        if name.lower() not in _FUNCTIONS:
            raise node.refuse(f"there is no activation '{name}'")
        function, standard = _FUNCTIONS[name.lower()]
        # Every function takes its numbers from the front of the lists.
        numbers = [lst.pop(0) if lst else value for lst, value in zip((alphas, betas), standard)]
        constants = [node.scalar(number, weights.dtype) for number in numbers]
        # ONNX Runtime limits the sums of the gates, but not the cell, which the third one sees.
        limit = None if place % count == 2 else clip
        found.append(_limited(node, function, constants, limit))
    return found[weights.number * count : (weights.number + 1) * count]


def _limited(
    node: Node,
    function: Callable[..., relax.Expr],
    constants: Sequence[relax.Expr],
    clip: float | None,
) -> Activation:
    def apply(x: relax.Expr) -> relax.Expr:
        x = node.emit(x)
        return function(R.clip(x, -clip, clip) if clip is not None else x, *constants)

    return apply
