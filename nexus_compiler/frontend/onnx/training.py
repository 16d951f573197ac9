"""The optimisers of `ai.onnx.preview.training`: one step for a group of weights.

All take the learning rate, the number of steps so far, then the weights, their gradients and their
moments, each as a run of tensors; they return the new weights, then the new moments.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value

DOMAIN = "ai.onnx.preview.training"


def _groups(node: Node, kinds: int) -> list[list[relax.Expr]]:
    """For every weight: itself, its gradient, its moments."""
    tensors = [node.tensor(i) for i in range(2, len(node))]
    if not tensors or len(tensors) % kinds:
        raise node.refuse(f"its {len(tensors)} tensors are no groups of {kinds}")
    count = len(tensors) // kinds
    return [tensors[i::count] for i in range(count)]


def _in_order(steps: Sequence[Sequence[relax.Expr]]) -> list[Value]:
    return [tensor for kind in zip(*steps) for tensor in kind]


def _times(node: Node, factor: float, x: relax.Expr) -> relax.Expr:
    return x if factor == 1 else node.emit(R.multiply(node.scalar(factor, node.dtype(x)), x))


def _regular(node: Node, x: relax.Expr, gradient: relax.Expr) -> relax.Expr:
    """The gradient with that of the penalty on large weights."""
    factor = node.attr("norm_coefficient")
    return gradient if factor == 0 else node.emit(R.add(_times(node, factor, x), gradient))


def _rate(node: Node, x: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """The learning rate and the number of steps, both in the type of `x`."""
    dtype = node.dtype(x)
    return tuple(node.emit(R.astype(R.reshape(node.tensor(i), []), dtype)) for i in (0, 1))


@op("Adagrad", domain=DOMAIN)
def adagrad(node: Node) -> list[Value]:
    """Steps divided by the root of the sum of all squares so far."""
    return _in_order([_adagrad(node, *group) for group in _groups(node, 3)])


def _adagrad(
    node: Node, x: relax.Expr, gradient: relax.Expr, squares: relax.Expr
) -> list[relax.Expr]:
    dtype = node.dtype(x)
    rate, count = _rate(node, x)
    decay = R.add(node.scalar(1, dtype), _times(node, node.attr("decay_factor"), count))
    gradient = _regular(node, x, gradient)
    squares = node.emit(R.add(squares, R.multiply(gradient, gradient)))
    root = R.add(R.sqrt(squares), node.scalar(node.attr("epsilon"), dtype))
    step = R.divide(R.multiply(R.divide(rate, decay), gradient), root)
    return [node.emit(R.subtract(x, step)), squares]


@op("Adam", domain=DOMAIN)
def adam(node: Node) -> list[Value]:
    """Steps along the mean gradient, divided by the root of its mean square."""
    return _in_order([_adam(node, *group) for group in _groups(node, 4)])


def _adam(
    node: Node, x: relax.Expr, gradient: relax.Expr, mean: relax.Expr, square: relax.Expr
) -> list[relax.Expr]:
    dtype = node.dtype(x)
    alpha, beta = node.attr("alpha"), node.attr("beta")
    gradient = _regular(node, x, gradient)
    mean = R.add(_times(node, alpha, mean), _times(node, 1 - alpha, gradient))
    mean = node.emit(mean)
    new = _times(node, 1 - beta, node.emit(R.multiply(gradient, gradient)))
    square = node.emit(R.add(_times(node, beta, square), new))
    root = R.add(R.sqrt(square), node.scalar(node.attr("epsilon"), dtype))
    step = R.multiply(_corrected(node, x, alpha, beta), R.divide(mean, root))
    result = node.emit(R.subtract(x, step))
    return [_times(node, 1 - node.attr("norm_coefficient_post"), result), mean, square]


def _corrected(node: Node, x: relax.Expr, alpha: float, beta: float) -> relax.Expr:
    """The rate, raised in the first steps, when the means still lean to 0; as it is at step 0."""
    dtype = node.dtype(x)
    rate, count = _rate(node, x)
    one, zero = node.scalar(1, dtype), node.scalar(0, dtype)
    started = R.greater(count, zero)
    safe = node.emit(R.where(started, count, one))

    def rest(factor: float) -> relax.Expr:
        return R.subtract(one, R.power(node.scalar(factor, dtype), safe))

    raised = R.divide(R.multiply(rate, R.sqrt(rest(beta))), rest(alpha))
    return node.emit(R.where(started, raised, rate))


@op("Momentum", domain=DOMAIN)
def momentum(node: Node) -> list[Value]:
    """Steps along a running sum of gradients, Nesterov's look ahead on demand."""
    return _in_order([_momentum(node, *group) for group in _groups(node, 3)])


def _momentum(
    node: Node, x: relax.Expr, gradient: relax.Expr, speed: relax.Expr
) -> list[relax.Expr]:
    dtype, alpha = node.dtype(x), node.attr("alpha")
    rate, count = _rate(node, x)
    gradient = _regular(node, x, gradient)
    # In the first step the gradient counts in full.
    started = R.greater(count, node.scalar(0, dtype))
    share = R.where(started, node.scalar(node.attr("beta"), dtype), node.scalar(1, dtype))
    speed = node.emit(R.add(_times(node, alpha, speed), R.multiply(share, gradient)))
    mode = node.attr("mode")
    if mode not in {"standard", "nesterov"}:
        raise node.refuse(f"its mode is '{mode}'")
    ahead = R.add(gradient, _times(node, alpha, speed)) if mode == "nesterov" else speed
    return [node.emit(R.subtract(x, R.multiply(rate, ahead))), speed]
