"""Gives every product the transposition of its own operand.

    t = permute_dims(x);  a = matmul(t, p);  b = matmul(t, q)

becomes

    t = permute_dims(x);  a = matmul(t, p);  u = permute_dims(x);  b = matmul(u, q)

A product reads a transposed operand where it lies (`codegen/llvm/products.py`), which only the
transposition before it tells. Gradients of weights are such products, each in a region of its own,
of what the forward pass made: there the transposition would be a kernel, and its result would stay
in memory from the forward pass on. A transposition with one reader goes to the reader's region
(`cluster.py`). In a step of a Transformer transpositions were a fifth of the time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax
from tvm.ir import Op

from nexus_compiler.ir.bodies import with_body
from nexus_compiler.passes.base import Pass

TURN, _PRODUCT = "relax.permute_dims", "relax.matmul"


def exchanged(value: Any) -> relax.Var | None:
    """What `value` is, but for its last two axes, which are exchanged; None where it is else."""
    if not isinstance(value, relax.Call) or value.op != Op.get(TURN):
        return None
    (source,) = value.args
    rank = getattr(source.ty, "ndim", -1)
    if rank < 2 or not isinstance(source, relax.Var):
        return None
    given = value.attrs.axes
    axes = list(reversed(range(rank))) if given is None else [int(axis) % rank for axis in given]
    return source if axes == [*range(rank - 2), rank - 1, rank - 2] else None


@dataclass(frozen=True)
class TurnAtReaders(Pass):
    """Copy transpositions that several products read; stands before regions are cut."""

    name: ClassVar[str] = "turn_at_readers"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of all functions."""
        changed = {v: new for v, f in module.functions.items() if (new := _function(f)) is not None}
        if not changed:
            return module
        found = IRModule({**dict(module.functions.items()), **changed}, attrs=module.attrs)
        return relax.transform.Normalize()(found)


def _function(function: tvm.ir.BaseFunc) -> relax.Function | None:
    """`function` with copies; None where nothing is read twice."""
    if not isinstance(function, relax.Function) or not isinstance(function.body, relax.SeqExpr):
        return None
    old = list(function.body.blocks)
    new = [_block(block) for block in old]
    if not any(new):
        return None
    body = relax.SeqExpr([n or o for n, o in zip(new, old)], function.body.body)
    return with_body(function, body)


def _block(block: relax.BindingBlock) -> relax.BindingBlock | None:
    turns = {b.var: b for b in block.bindings if exchanged(b.value) is not None}
    reads = Counter(v for b in block.bindings if _is_product(b) for v in set(b.value.args))
    several = {variable: turn for variable, turn in turns.items() if reads[variable] > 1}
    if not several or not isinstance(block, relax.DataflowBlock):
        return None
    made: list[relax.Binding] = []
    served: set[relax.Var] = set()
    for binding in block.bindings:
        if _is_product(binding):
            own = {arg: several[arg] for arg in binding.value.args if arg in several}
            # The first reader keeps what is there.
            fresh = {v: _copy(turn) for v, turn in own.items() if v in served}
            served |= own.keys()
            made += fresh.values()
            binding = _reading(binding, fresh) if fresh else binding  # noqa: PLW2901
        made.append(binding)
    return relax.DataflowBlock(made)


def _is_product(binding: relax.Binding) -> bool:
    value = binding.value
    return isinstance(value, relax.Call) and value.op == Op.get(_PRODUCT)


def _copy(turn: relax.VarBinding) -> relax.VarBinding:
    return relax.VarBinding(relax.DataflowVar(turn.var.name, turn.var.ty), turn.value)


def _reading(
    binding: relax.VarBinding, fresh: dict[relax.Var, relax.VarBinding]
) -> relax.VarBinding:
    call = binding.value
    args = [fresh[arg].var if arg in fresh else arg for arg in call.args]
    changed = relax.Call(call.op, args, call.attrs, call.ty_args)
    relax.expr._update_type(changed, call.ty)
    return relax.VarBinding(binding.var, changed)
