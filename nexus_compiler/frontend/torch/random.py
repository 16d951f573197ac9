"""Random operators: hashes of seed, element and operator, so that runs can be repeated.

The hash is that of `frontend/builder/dropout_mask.py` (the 32-bit finaliser of MurmurHash3, twice).
The numbers are not those that PyTorch's generator would draw, but of the same distribution. An
element's number counts from the first sample of the whole batch (`row`), so that workers with parts
of a batch draw what one with all of it would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: sets the streams of neighbouring operators far apart


def _word(value: int) -> relax.Expr:
    return relax.const(np.uint64(value & 0xFFFFFFFF))


def _cut(node: Node, bits: Any) -> relax.Var:
    return node.emit(R.bitwise_and(bits, _word(0xFFFFFFFF)))


def _finalise(node: Node, bits: Any) -> relax.Var:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = node.emit(R.bitwise_xor(bits, R.right_shift(bits, _word(shift))))
        bits = _cut(node, R.multiply(bits, _word(factor)))
    return node.emit(R.bitwise_xor(bits, R.right_shift(bits, _word(16))))


def random_bits(node: Node, shape: Sequence[Size]) -> relax.Var:
    """uint64 of `shape`, each of 32 random bits."""
    seed, row, stream = node.importer.randomness()
    count, sample = sizes.product(shape), sizes.product(shape[1:])
    line = node.emit(R.arange(0, *node.dims([count]), dtype="int64"))
    start = node.emit(R.multiply(row, node.scalar(sample, "int64")))
    counter = _cut(node, R.astype(node.emit(R.add(line, start)), "uint64"))
    salted = R.add(R.astype(seed, "uint64"), _word((stream + 1) * _GOLDEN))
    key = _finalise(node, _cut(node, salted))
    return node.reshape(_finalise(node, R.bitwise_xor(counter, key)), shape)


def uniform(node: Node, shape: Sequence[Size], dtype: str) -> relax.Var:
    """Numbers in [0, 1), as many as 24 bits can tell apart (in float64 32)."""
    bits = random_bits(node, shape)
    width = 32 if dtype == "float64" else 24
    kept = node.emit(R.right_shift(bits, _word(32 - width)))
    wide = "float64" if dtype == "float64" else "float32"
    numbers = R.multiply(node.cast(kept, wide), node.scalar(2.0**-width, wide))
    return node.emit(node.cast(node.emit(numbers), dtype))


def below(node: Node, shape: Sequence[Size], rate: float) -> relax.Var:
    """A mask that is set with the probability `rate`."""
    limit = relax.const(np.uint64(round(rate * 2**32)))
    return node.emit(R.less(random_bits(node, shape), limit))


def dropout(node: Node, x: Any, shape: Sequence[Size], rate: float) -> tuple[Any, Any]:
    """`x` with elements zeroed with the probability `rate`, the others scaled up; the mask."""
    dtype = dtype_of(x)
    kept = below(node, shape, 1 - rate)
    scale = node.scalar(1 / (1 - rate) if rate < 1 else 0, dtype)
    return R.where(kept, R.multiply(x, scale), node.scalar(0, dtype)), kept


@op("native_dropout")
def native_dropout(node: Node) -> list[Any]:
    """Dropout, and the mask of what it kept."""
    x, train = node["input"], node["train"]
    if train is False or node["p"] == 0:
        return [x, node.full(node.shapes(1), True, "bool")]
    return list(dropout(node, x, node.shape, node["p"]))


@op("dropout")
def whole_dropout(node: Node) -> Any:
    """Dropout."""
    if not node["train"] or node["p"] == 0:
        return node["input"]
    return dropout(node, node["input"], node.shape, node["p"])[0]


@op("rand", "rand_like")
def rand(node: Node) -> Any:
    """Numbers in [0, 1)."""
    return uniform(node, node.shape, node.dtype)


@op("uniform")
def uniform_between(node: Node) -> Any:
    """Numbers in an interval."""
    low, high = node["from"], node["to"]
    line = R.multiply(uniform(node, node.shape, node.dtype), node.scalar(high - low, node.dtype))
    return R.add(line, node.scalar(low, node.dtype))


@op("randn", "randn_like", "normal_functional")
def randn(node: Node) -> Any:
    """Normal numbers (Box and Muller)."""
    dtype = node.dtype
    first = uniform(node, node.shape, dtype)
    second = uniform(node, node.shape, dtype)
    # 1 - u is in (0, 1]: its logarithm is finite.
    away = R.log(R.subtract(node.scalar(1, dtype), first))
    radius = R.sqrt(R.multiply(node.scalar(-2, dtype), away))
    result = R.multiply(radius, R.cos(R.multiply(node.scalar(2 * math.pi, dtype), second)))
    if "std" in node and node["std"] != 1:
        result = R.multiply(result, node.scalar(node["std"], dtype))
    return R.add(result, node.scalar(node["mean"], dtype)) if node.get("mean") else result


@op("bernoulli")
def bernoulli(node: Node) -> Any:
    """0 or 1, with a probability given as a number or by element."""
    if isinstance(node.get("p"), float):
        return node.cast(below(node, node.shape, node["p"]), node.dtype)
    drawn = R.less(uniform(node, node.shape, "float32"), node.cast(node["self"], "float32"))
    return node.cast(node.emit(drawn), node.dtype)


@op("randint", "randint_like")
def randint(node: Node) -> Any:
    """Whole numbers of an interval."""
    low = node.get("low", 0)
    span = node.scalar(node["high"] - low, "uint64")
    drawn = node.cast(node.emit(R.floor_mod(random_bits(node, node.shape), span)), "int64")
    return node.cast(node.emit(R.add(drawn, node.scalar(low, "int64"))), node.dtype)


@op("randperm")
def randperm(node: Node) -> Any:
    """The numbers below n in random order."""
    bits = node.cast(random_bits(node, node.shape), "int64")
    return node.cast(node.emit(R.argsort(bits, 0, dtype="int64")), node.dtype)
