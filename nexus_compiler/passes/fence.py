"""Keeps kernels that need a size behind the place where a run tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import IRModule, relax
from tvm.relax.analysis import free_vars

from nexus_compiler.ir.bodies import with_body
from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class FenceSizes(Pass):
    """Cut dataflow blocks at every match; stands before `fuse`.

    TVM's fusion orders groups by the tensors that they read, and would put a group that reads only
    a size (`arange(n)`) before the match that makes the size known.
    """

    name: ClassVar[str] = "fence_sizes"
    leaves: ClassVar[str] = "lowered"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the functions whose bodies are dataflow with matches in it."""
        functions: Any = module.functions
        updated = IRModule(dict(functions.items()), attrs=module.attrs)
        for variable, function in functions.items():
            if isinstance(function, relax.Function) and (body := _fenced(function.body)):
                updated.update_func(variable, with_body(function, body))
        return relax.transform.Normalize()(updated)


def _fenced(body: relax.Expr) -> relax.Expr | None:
    if not isinstance(body, relax.SeqExpr):
        return None
    if not all(isinstance(block, relax.DataflowBlock) for block in body.blocks):
        return None
    bindings = [binding for block in body.blocks for binding in block.bindings]
    if not any(isinstance(binding, relax.MatchCast) for binding in bindings):
        return None
    segments = _segments(bindings)
    shared = _shared(segments, body.body)
    rename = _Rename()
    blocks = [_block(segment, shared, rename) for segment in segments]
    return relax.SeqExpr(blocks, rename.visit_expr(body.body))


def _segments(bindings: Sequence[relax.Binding]) -> list[list[relax.Binding]]:
    """Every match alone, and what stands between two of them together."""
    segments: list[list[relax.Binding]] = [[]]
    for binding in bindings:
        if isinstance(binding, relax.MatchCast):
            segments += [[binding], []]
        else:
            segments[-1].append(binding)
    return [segment for segment in segments if segment]


def _shared(segments: Sequence[Sequence[relax.Binding]], result: relax.Expr) -> set[relax.Var]:
    """The variables that are read outside of their segment."""
    home = {binding.var: place for place, s in enumerate(segments) for binding in s}
    shared = set(free_vars(result))
    for place, segment in enumerate(segments):
        for binding in segment:
            shared |= {v for v in free_vars(binding.value) if home.get(v, place) != place}
    return shared


def _block(
    segment: Sequence[relax.Binding], shared: set[relax.Var], rename: _Rename
) -> relax.BindingBlock:
    match = isinstance(segment[0], relax.MatchCast)
    made: list[relax.Binding] = []
    for binding in segment:
        value, old = rename.visit_expr(binding.value), binding.var
        kind = relax.Var if match or old in shared else relax.DataflowVar
        new = rename.names[old] = kind(old.name, old.ty)
        made.append(
            relax.MatchCast(new, value, binding.ty)
            if isinstance(binding, relax.MatchCast)
            else relax.VarBinding(new, value)
        )
    return relax.BindingBlock(made) if match else relax.DataflowBlock(made)


@relax.expr_functor.mutator
class _Rename(relax.PyExprMutator):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[relax.Var, relax.Var] = {}

    def visit_var_(self, variable: relax.Var) -> relax.Var:
        return self.names.get(variable, variable)

    def visit_dataflow_var_(self, variable: relax.Var) -> relax.Var:
        return self.names.get(variable, variable)
