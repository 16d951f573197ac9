"""Random operators: hashes of a seed and of the number of the element, so that runs can repeat.

An operator with the attribute `seed` gives the same numbers in every run. Without it, the model
gets one input more, `seed` (uint32): another one for each run gives other numbers. The hash is that
of `frontend/builder/dropout_mask.py`. The numbers are not those that ONNX Runtime would draw, but
of the same distribution.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Generator, Sequence
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.builder import dropout_mask
from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, element_type
from nexus_runtime.signature import TensorSpec

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: sets the streams of neighbouring operators far apart


class Randomness:
    """Where the random numbers of one model come from.

    Attributes:
        variables: the input `seed`, once an operator has asked for it.
    """

    def __init__(self, taken: Collection[str] = ()) -> None:
        self.variables: list[relax.Var] = []
        self._name = "seed"
        while self._name in taken:
            self._name += "_"
        self._steps: list[relax.Expr] = []
        self._streams = 0

    def specs(self) -> list[TensorSpec]:
        """The inputs that the model gets for it."""
        return [TensorSpec(str(v.name), "uint32", ()) for v in self.variables]

    @contextlib.contextmanager
    def repeated(self, step: relax.Expr) -> Generator[None]:
        """What is drawn inside is another for each `step` (an int64 scalar) of a loop."""
        self._steps.append(step)
        try:
            yield
        finally:
            self._steps.pop()

    def key(self, node: Node) -> relax.Expr:
        """What the numbers of a stream of `node` follow from: a uint64 scalar of 32 bits."""
        self._streams += 1
        seed, block = node.attr("seed"), node.importer.builder
        if seed is not None:
            bits = int(np.asarray(seed, "float32").view("uint32"))
            key: relax.Expr = dropout_mask.word(bits)
        else:
            if not self.variables:
                self.variables = [relax.Var(self._name, relax.TensorType([], "uint32"))]
            salt = dropout_mask.word(self._streams * _GOLDEN)
            key = R.add(node.emit(R.astype(self.variables[0], "uint64")), salt)
        for step in self._steps:
            mixed = dropout_mask.finalise(block, dropout_mask.cut(block, node.emit(key)))
            key = R.add(mixed, node.emit(R.astype(step, "uint64")))
        return dropout_mask.finalise(block, dropout_mask.cut(block, node.emit(key)))


def uniform(node: Node, shape: Sequence[Size], dtype: str, part: int = 0) -> relax.Expr:
    """Numbers in [0, 1), as many as 24 bits tell apart; every `part` is a stream."""
    block = node.importer.builder
    key = node.importer.random.key(node)
    places = counting.count(node, node.sizes.product(shape))
    counter = R.add(R.astype(places, "uint64"), dropout_mask.word(part * _GOLDEN))
    mixed = R.bitwise_xor(dropout_mask.cut(block, node.emit(counter)), key)
    bits = dropout_mask.finalise(block, node.emit(mixed))
    kept = node.emit(R.right_shift(bits, relax.const(np.uint64(8))))
    wide = "float64" if dtype == "float64" else "float32"
    numbers = R.multiply(R.astype(kept, wide), node.scalar(2.0**-24, wide))
    return node.emit(R.reshape(node.emit(numbers), list(shape)))


def _normal(node: Node, shape: Sequence[Size], dtype: str) -> relax.Expr:
    """Standard normal numbers (Box and Muller)."""
    first, second = (uniform(node, shape, dtype, part) for part in range(2))
    wide = node.dtype(first)
    # 1 - u is in (0, 1]: its logarithm is finite.
    away = R.log(R.subtract(node.scalar(1, wide), first))
    radius = R.sqrt(R.multiply(node.scalar(-2, wide), away))
    return node.emit(R.multiply(radius, R.cos(R.multiply(node.scalar(2 * math.pi, wide), second))))


def _like(node: Node) -> tuple[Sequence[Size], str]:
    """The shape and the type of the result."""
    number = node.attr("dtype")
    if node.kind in {"RandomNormal", "RandomUniform"}:
        return node.attr("shape"), element_type(number, str(node))
    node.value(0)
    return node.shape(0), element_type(number, str(node)) if number else node.dtype(0)


@op("RandomUniform", "RandomUniformLike")
def random_uniform(node: Node) -> Value:
    """Numbers of an interval, each as likely as another."""
    shape, dtype = _like(node)
    low, high = node.attr("low"), node.attr("high")
    x = uniform(node, shape, dtype)
    wide = node.dtype(x)
    scaled = R.add(R.multiply(x, node.scalar(high - low, wide)), node.scalar(low, wide))
    return R.astype(node.emit(scaled), dtype)


@op("RandomNormal", "RandomNormalLike")
def random_normal(node: Node) -> Value:
    """Normal numbers of a mean and a standard deviation."""
    shape, dtype = _like(node)
    x = _normal(node, shape, dtype)
    wide = node.dtype(x)
    scaled = R.multiply(x, node.scalar(node.attr("scale"), wide))
    return R.astype(node.emit(R.add(scaled, node.scalar(node.attr("mean"), wide))), dtype)


@op("Bernoulli")
def bernoulli(node: Node) -> Value:
    """1 with the probability that the input holds, else 0."""
    shape, dtype = _like(node)
    chance = node.emit(node.tensor(0))
    drawn = uniform(node, shape, node.dtype(chance))
    return R.astype(node.emit(R.less(drawn, R.astype(chance, node.dtype(drawn)))), dtype)


@op("Multinomial")
def multinomial(node: Node) -> Value:
    """Numbers of classes, drawn with the probabilities whose logarithms the rows hold."""
    x = node.emit(R.astype(node.tensor(0), "float32"))
    (batch, classes), count = node.shape(x), node.attr("sample_size")
    number = node.attr("dtype")
    dtype = element_type(number, str(node)) if number else "int32"
    total = node.emit(R.cumsum(R.nn.softmax(x, 1), 1, "float32", False))
    drawn = node.emit(R.expand_dims(uniform(node, [batch, count], "float32"), [2]))
    passed = R.less_equal(R.expand_dims(total, [1]), drawn)
    found = node.emit(R.sum(R.astype(node.emit(passed), "int64"), [2]))
    # The sums end near 1, not at it.
    last = counting.scalar(node, node.sizes.simple(classes - 1))
    return R.astype(node.emit(R.minimum(found, last)), dtype)


def drop(node: Node, x: relax.Expr, ratio: Any) -> tuple[relax.Expr, relax.Expr]:
    """`x` with zeros, so many of all as `ratio` (a scalar) says, the rest scaled up; the mask."""
    dtype = node.dtype(x)
    drawn = uniform(node, node.shape(x), dtype)
    wide = node.dtype(drawn)
    ratio = node.emit(R.astype(node.emit(R.reshape(ratio, [])), wide))
    kept = node.emit(R.greater_equal(drawn, ratio))
    scaled = R.divide(R.astype(x, wide), R.subtract(node.scalar(1, wide), ratio))
    result = R.where(kept, node.emit(R.astype(node.emit(scaled), dtype)), node.scalar(0, dtype))
    return node.emit(result), kept
