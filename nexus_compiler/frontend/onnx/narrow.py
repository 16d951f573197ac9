"""Elements of 8 bits and less that TVM does not compute with: float8, float4, int4 and their like.

A tensor of these is carried as the bits of its elements, one uint8 each, and the importer remembers
what they mean. Operators that only move elements work on the bits; Cast reads them by a table and
makes them by a search among the places where the rounding changes, so both are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.values import Host, R, is_float, numpy_dtype
from nexus_runtime.tensors import BITS

_FLOAT4, _POWERS = "float4_e2m1fn", "float8_e8m0fnu"


def decode(node: Node, bits: relax.Expr, dtype: str) -> relax.Expr:
    """The elements that the uint8 tensor `bits` stands for: float32, or int32 where whole."""
    codes = np.arange(1 << BITS[dtype], dtype=np.uint8)
    kind = "float32" if is_float(dtype) else "int32"
    table = codes.view(numpy_dtype(dtype)).astype(kind)
    last = node.scalar(len(codes) - 1, "uint8")
    places = node.emit(R.astype(R.bitwise_and(bits, last), "int32"))
    return node.emit(R.take(_table(node, table), places, 0, mode="clip"))


def encode(
    node: Node, x: relax.Expr, dtype: str, *, saturate: bool = True, round_mode: str = "up"
) -> relax.Expr:
    """The bits, as uint8, of `x` rounded to `dtype`; whole numbers are cut, and wrap around.

    Args:
        node: the node that asks for it.
        x: a tensor of any type that TVM computes with.
        dtype: one of `BITS`.
        saturate: what is too large, infinity included, becomes the largest number.
        round_mode: how float8_e8m0fnu rounds: up, down or nearest.
    """
    x = node.emit(x)
    if not is_float(dtype):
        return _whole(node, x, dtype)
    if node.dtype(x) not in {"float32", "float64"}:
        x = node.emit(R.astype(x, "float32"))
    size = node.emit(R.abs(x))
    if dtype == _POWERS:
        special = R.logical_not(R.isfinite(x))
        bounds = _power_bounds(round_mode, saturate)
        return _chosen(node, special, 255, _codes(node, size, bounds))
    code = node.emit(_codes(node, size, _bounds(dtype, saturate or dtype == _FLOAT4)))
    if not saturate and dtype.endswith(("e4m3fn", "fnuz")):
        # One past the largest stands for "not a number", which has no sign in fnuz.
        over = R.greater(code, node.scalar(_largest(dtype), "uint8"))
        code = node.emit(_chosen(node, over, _bits_of(np.nan, dtype), code))
    negative = R.less(_signed(node, x), node.scalar(0, node.dtype(x)))
    if dtype.endswith("fnuz"):
        at_zero = R.equal(code, node.scalar(0, "uint8"))
        negative = R.logical_and(negative, R.logical_not(at_zero))
    sign = node.scalar(1 << (BITS[dtype] - 1), "uint8")
    signed = node.emit(R.where(negative, R.bitwise_or(code, sign), code))
    return _chosen(node, R.isnan(x), _bits_of(np.nan, dtype), signed)


def _whole(node: Node, x: relax.Expr, dtype: str) -> relax.Expr:
    if is_float(node.dtype(x)):
        zero = node.scalar(0, node.dtype(x))
        x = node.emit(R.where(R.isnan(x), zero, x))
    number = node.emit(R.astype(x, "int32"))
    last = node.scalar((1 << BITS[dtype]) - 1, "int32")
    return node.emit(R.astype(R.bitwise_and(number, last), "uint8"))


def _signed(node: Node, x: relax.Expr) -> relax.Expr:
    """Something with the sign of `x`, also where that is a zero."""
    dtype = node.dtype(x)
    zero, one = node.scalar(0, dtype), node.scalar(1, dtype)
    return R.where(R.equal(x, zero), R.divide(one, x), x)


def _chosen(node: Node, where: relax.Expr, bits: int, rest: relax.Expr) -> relax.Expr:
    return node.emit(R.where(where, node.scalar(bits, "uint8"), rest))


def _bits_of(number: float, dtype: str) -> int:
    with np.errstate(invalid="ignore"):
        return int(np.asarray(number, np.float32).astype(numpy_dtype(dtype)).view(np.uint8))


def _codes(node: Node, size: relax.Expr, bounds: np.ndarray) -> relax.Expr:
    """For each element, how many of `bounds` it is above."""
    table = _table(node, bounds.astype(node.dtype(size)))
    # A search must not meet what is no number.
    zero = node.scalar(0, node.dtype(size))
    known = node.emit(R.where(R.isnan(size), zero, size))
    return node.emit(R.astype(R.bucketize(known, table, out_int32=True), "uint8"))


def _largest(dtype: str) -> int:
    """The bits of the largest finite number."""
    codes = np.arange(1 << (BITS[dtype] - 1), dtype=np.uint8)
    finite = np.isfinite(codes.view(numpy_dtype(dtype)).astype(np.float64))
    return int(codes[finite][-1])


def _bounds(dtype: str, saturate: bool) -> np.ndarray:
    """Above bound c a number is rounded to code c + 1 or more: to nearest, ties to the even code.

    The last bound, of numbers that are too large, is left out with `saturate`.
    """
    last = _largest(dtype)
    codes = np.arange(last + 1, dtype=np.uint8)
    numbers = codes.view(numpy_dtype(dtype)).astype(np.float64)
    numbers = np.append(numbers, 2 * numbers[-1] - numbers[-2])
    middles = (numbers[:-1] + numbers[1:]) / 2
    # float32 holds every middle, so that its neighbour below parts "above" from "at least".
    below = np.nextafter(middles.astype(np.float32), np.float32(0)).astype(np.float64)
    bounds = np.where(codes % 2 == 0, middles, below)
    return bounds[:-1] if saturate else bounds


def _power_bounds(round_mode: str, saturate: bool) -> np.ndarray:
    """The same for powers of two, as `onnx.numpy_helper.to_float8e8m0` rounds."""
    powers = 2.0 ** (np.arange(255) - 127)
    if round_mode == "up":
        bounds = powers
        bounds[0] = 0
    elif round_mode == "down":
        bounds = _before(2 * powers)
    else:
        bounds = _before(1.5 * powers)
        bounds[0] = powers[0]
    return bounds[:-1] if saturate or round_mode == "down" else bounds


def _before(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.nextafter(numbers.astype(np.float32), np.float32(0)).astype(np.float64)


def _table(node: Node, array: Any) -> relax.Expr:
    return node.importer.tensor(Host(array, array.dtype.name))
