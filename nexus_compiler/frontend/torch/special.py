"""Logarithms and powers to several bases, exact near zero; and numbers that are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R, is_float
from nexus_compiler.ir.near_zero import near_zero


@op("isnan", "isinf", "isfinite")
def is_special(node: Node) -> Any:
    """Whether elements are no numbers, infinite, or finite."""
    x = node["self"]
    kind = node.kind
    if not is_float(dtype_of(x)):
        return node.full(node.shape, kind == "isfinite", "bool")
    return {"isnan": R.isnan, "isinf": R.isinf, "isfinite": R.isfinite}[kind](x)


@op("exp2", "log2", "log10")
def other_bases(node: Node) -> Any:
    """Powers of and logarithms to other bases than e."""
    x = node.tensor("self")
    kind = node.kind
    if kind == "exp2":
        return R.power(node.scalar(2, node.dtype), x)
    base = node.scalar(math.log(2 if kind == "log2" else 10), node.dtype)
    return R.divide(R.log(x), base)


@op("log1p", "expm1", "atanh")
def exact(node: Node) -> Any:
    """log(1 + x), exp(x) - 1 and the inverse of tanh, exact for small x too."""
    return near_zero(node.kind, node.tensor("self"), node.emit)


@op("erfc")
def erfc(node: Node) -> Any:
    """1 - erf(x)."""
    return R.subtract(node.scalar(1, node.dtype), R.erf(node.tensor("self")))


@op("nan_to_num")
def nan_to_num(node: Node) -> Any:
    """Numbers for what is none."""
    x, dtype = node.tensor("self"), node.dtype
    if not is_float(dtype):
        return x
    limits = np.finfo(np.float32 if dtype in {"float32", "bfloat16"} else dtype)
    high = node["posinf"] if "posinf" in node else float(limits.max)
    low = node["neginf"] if "neginf" in node else float(limits.min)
    zero = node.scalar(0, dtype)
    infinite = R.where(R.greater(x, zero), node.scalar(high, dtype), node.scalar(low, dtype))
    nan = node.scalar(node.get("nan", 0.0), dtype)
    return R.where(R.isnan(x), nan, R.where(R.isinf(x), infinite, x))
