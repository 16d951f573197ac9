"""All rules of this package by operator."""

from __future__ import annotations

from nexus_compiler.passes.gradients import (
    activation,
    arithmetic,
    conv,
    index,
    matmul,
    movement,
    norm,
    pool,
    reduce,
)
from nexus_compiler.passes.gradients.rule import Rule

_FAMILIES = (activation, arithmetic, conv, index, matmul, movement, norm, pool, reduce)
_RULES: dict[str, Rule] = {
    f"relax.{name}": rule for family in _FAMILIES for name, rule in family.RULES.items()
}


def find(operator: str) -> Rule | None:
    """The rule of `operator` ("relax.nn.gelu"), None where only TVM may have one."""
    return _RULES.get(operator)
