"""Functions of single values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dtype, nothing

op = relax.op


def _times(slope: Callable[[Site, relax.Expr], relax.Expr]) -> Rule:
    """The rule of a function of one operand with this slope."""

    def rule(site: Site) -> Sequence[relax.Expr | None]:
        return [site.mul(site.adjoint, site.put(slope(site, site.args[0])))]

    return rule


def _rsqrt(site: Site, x: relax.Expr) -> relax.Expr:
    """-y / 2x"""
    return site.mul(site.div(site.result, x), -0.5)


def _erf(site: Site, x: relax.Expr) -> relax.Expr:
    density = site.put(op.exp(site.put(op.negative(site.mul(x, x)))))
    return site.mul(density, 2 / math.sqrt(math.pi))


def _tan(site: Site, x: relax.Expr) -> relax.Expr:
    return site.add(site.mul(site.result, site.result), 1)


def _root(site: Site, x: relax.Expr, sign: float, one: float) -> relax.Var:
    """1 / sqrt(sign * x^2 + one)"""
    inside = site.add(site.mul(site.mul(x, x), sign), one)
    return site.put(op.rsqrt(inside))


def _atan(site: Site, x: relax.Expr) -> relax.Expr:
    return site.div(site.number(1), site.add(site.mul(x, x), 1))


def _atanh(site: Site, x: relax.Expr) -> relax.Expr:
    return site.div(site.number(1), site.sub(site.number(1), site.mul(x, x)))


def _clip(site: Site) -> Sequence[relax.Expr | None]:
    """Nothing flows to what was cut off; the bounds themselves let it through, as in PyTorch."""
    x, low, high = site.args
    bounds = [float(bound.value) for bound in (low, high)]
    above = site.put(op.greater_equal(x, relax.const(bounds[0], dtype(x))))
    below = site.put(op.less_equal(x, relax.const(bounds[1], dtype(x))))
    inside = site.put(op.logical_and(above, below))
    return [site.put(op.where(inside, site.adjoint, site.number(0))), None, None]


def _log_add_exp(site: Site) -> Sequence[relax.Expr | None]:
    """The shares of both operands, exp(x - y)."""
    parts: list[relax.Expr] = []
    for operand in site.args:
        share = site.put(op.exp(site.sub(operand, site.result)))
        part = site.mul(site.adjoint, share)
        parts.append(site.put(op.collapse_sum_to(part, operand.ty.shape)))
    return parts


RULES: dict[str, Rule] = {
    "acos": _times(lambda s, x: op.negative(_root(s, x, -1, 1))),
    "acosh": _times(lambda s, x: _root(s, x, 1, -1)),
    "asin": _times(lambda s, x: _root(s, x, -1, 1)),
    "asinh": _times(lambda s, x: _root(s, x, 1, 1)),
    "atan": _times(_atan),
    "atanh": _times(_atanh),
    "ceil": nothing,
    "clip": _clip,
    "cosh": _times(lambda s, x: op.sinh(x)),
    "erf": _times(_erf),
    "floor": nothing,
    "log_add_exp": _log_add_exp,
    "round": nothing,
    "rsqrt": _times(_rsqrt),
    "sign": nothing,
    "sinh": _times(lambda s, x: op.cosh(x)),
    "square": _times(lambda s, x: s.mul(x, 2)),
    "tan": _times(_tan),
    "trunc": nothing,
}
