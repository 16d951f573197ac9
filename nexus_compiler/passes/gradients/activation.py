"""Activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims

op = relax.op

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _gelu(site: Site) -> Sequence[relax.Expr | None]:
    """Phi(x) + x * phi(x), of the standard normal distribution (Hendrycks and Gimpel 2016)."""
    x = site.args[0]
    mass = site.mul(site.add(site.put(op.erf(site.mul(x, math.sqrt(0.5)))), 1), 0.5)
    bell = site.put(op.exp(site.mul(site.mul(x, x), -0.5)))
    slope = site.add(mass, site.mul(site.mul(x, bell), 1 / math.sqrt(2 * math.pi)))
    return [site.mul(site.adjoint, slope)]


def _gelu_tanh(site: Site) -> Sequence[relax.Expr | None]:
    """Of x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)."""
    x, root = site.args[0], math.sqrt(2 / math.pi)
    square = site.mul(x, x)
    inner = site.mul(site.mul(x, site.add(site.mul(square, 0.044715), 1)), root)
    tanh = site.put(op.tanh(inner))
    rise = site.mul(site.add(site.mul(square, 3 * 0.044715), 1), root)
    bend = site.mul(site.sub(site.number(1), site.mul(tanh, tanh)), rise)
    slope = site.mul(site.add(site.add(tanh, 1), site.mul(x, bend)), 0.5)
    return [site.mul(site.adjoint, slope)]


def _leakyrelu(site: Site) -> Sequence[relax.Expr | None]:
    above = site.put(op.greater(site.args[0], site.number(0)))
    slow = site.mul(site.adjoint, float(site.attrs.alpha))
    return [site.put(op.where(above, site.adjoint, slow))]


def _prelu(site: Site) -> Sequence[relax.Expr | None]:
    x, slope = site.args
    rank, axis = len(dims(x)), int(site.attrs.axis)
    column = [1] * rank
    column[axis] = dims(slope)[0]
    below = site.put(op.less(x, site.number(0)))
    wide = site.mul(site.adjoint, site.reshape(slope, column))
    lost = site.put(op.where(below, site.mul(site.adjoint, x), site.number(0)))
    others = [a for a in range(rank) if a != axis % rank]
    by_slope = site.put(op.sum(lost, axis=others))
    if dims(slope)[0] == 1:
        by_slope = site.reshape(site.put(op.sum(by_slope)), [1])
    return [site.put(op.where(below, wide, site.adjoint)), by_slope]


def _relu(site: Site) -> Sequence[relax.Expr | None]:
    """By the result: what it was computed from need not be kept; nothing flows at 0."""
    flat = site.put(op.less_equal(site.result, site.number(0)))
    return [site.put(op.where(flat, site.number(0), site.adjoint))]


def _selu(site: Site) -> Sequence[relax.Expr | None]:
    above = site.put(op.greater(site.args[0], site.number(0)))
    curved = site.add(site.result, _SELU_ALPHA * _SELU_SCALE)
    slope = site.put(op.where(above, site.number(_SELU_SCALE), curved))
    return [site.mul(site.adjoint, slope)]


def _softplus(site: Site) -> Sequence[relax.Expr | None]:
    """log(1 + exp(beta x)) / beta rises by sigmoid(beta x), and by 1 above the threshold."""
    x, beta = site.args[0], float(site.attrs.beta)
    scaled = site.mul(x, beta)
    high = site.put(op.greater(scaled, site.number(float(site.attrs.threshold))))
    slope = site.put(op.where(high, site.number(1), site.put(op.sigmoid(scaled))))
    return [site.mul(site.adjoint, slope)]


RULES: dict[str, Rule] = {
    "nn.gelu": _gelu,
    "nn.gelu_tanh": _gelu_tanh,
    "nn.leakyrelu": _leakyrelu,
    "nn.prelu": _prelu,
    "nn.relu": _relu,
    "nn.selu": _selu,
    "nn.softplus": _softplus,
}
