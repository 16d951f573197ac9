"""Gives sizes that a run must find equal one name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import IRModule, relax, tirx

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class UnifySizes(Pass):
    """Of sizes that a match equates, the one that is known first stands for all; stands first.

    The match that made a later one known becomes the check. TVM's CanonicalizeBindings replaces
    such a size only behind the match, and so leaves calls whose result has another name for a size
    than their arguments. Sizes of arguments keep their names: signatures tell them.
    """

    name: ClassVar[str] = "unify_sizes"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and (names := _Equal(function).names()):
                updated.update_func(variable, function.bind_symbolic_vars(names))
        return updated


class _Equal:
    """Which sizes of a function are equal, and in which order they become known."""

    def __init__(self, function: relax.Function) -> None:
        self._order: dict[tirx.Var, int] = {}
        self._chosen: dict[tirx.Var, tirx.Var] = {}
        for parameter in function.params:
            self._define(parameter.ty)
        self._arguments = set(self._order)
        if isinstance(function.body, relax.SeqExpr):
            for block in function.body.blocks:
                for binding in block.bindings:
                    if isinstance(binding, relax.MatchCast):
                        self._equate(binding.value.ty, binding.ty)
                        self._define(binding.ty)

    def names(self) -> dict[tirx.Var, tirx.Var]:
        """For every size that has another name by now, that name."""
        return {size: self._first(size) for size in self._chosen}

    def _first(self, size: tirx.Var) -> tirx.Var:
        while size in self._chosen:
            size = self._chosen[size]
        return size

    def _define(self, kind: Any) -> None:
        for size in _sizes(kind):
            for variable in tirx.analysis.undefined_vars(size):
                self._order.setdefault(variable, len(self._order))

    def _equate(self, found: Any, wanted: Any) -> None:
        for a, b in zip(_sizes(found), _sizes(wanted)):
            if not (isinstance(a, tirx.Var) and isinstance(b, tirx.Var)):
                continue
            if a not in self._order or b not in self._order:  # a definition
                continue
            first, later = sorted((self._first(a), self._first(b)), key=self._order.__getitem__)
            if first != later and later not in self._arguments:
                self._chosen[later] = first


def _sizes(kind: Any) -> list[Any]:
    """The sizes that the type of a tensor or shape holds, in order."""
    if isinstance(kind, relax.ShapeType):
        return list(kind.values or [])
    shape: Any = getattr(kind, "shape", None)
    return list(shape.values) if isinstance(shape, relax.ShapeExpr) else []
