"""Makes one kernel of softmax(q k' ...) v, so that the scores of all pairs never stand in memory.

    scores = matmul(q, k');  scores = f(scores, masks...);  matmul(softmax(scores), v)

`f` is a chain of elementwise operators. What only moves elements of q, k and v (heads cut apart,
keys transposed, shared or repeated) and of the result (heads put together) comes along, so that the
kernel reads and writes the tensors as the projections have them. After FlashAttention (Dao et al.
2022); the kernel itself is `codegen/llvm/schedules/attention.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.ir.expr import GenericConst

from nexus_compiler.ir.bodies import with_body
from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.outline import outlined, tells_sizes

_ELEMENTWISE = frozenset(
    f"relax.{name}"
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "where", "tanh")
)
_MOVING = frozenset(
    f"relax.{name}"
    for name in ("permute_dims", "reshape", "expand_dims", "squeeze", "broadcast_to")
)
_JOINING = frozenset(("relax.concat", "relax.strided_slice"))
_FEW = 4
_MATMUL, _SOFTMAX, _WHERE = "relax.matmul", "relax.nn.softmax", "relax.where"
_DTYPE = "float32"


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Outline every attention whose scores nobody else reads; stands before legalization.

    Attributes:
        largest_head: elements of a head from which on a block of keys leaves the first cache.
    """

    name: ClassVar[str] = "fuse_attention"
    leaves: ClassVar[str] = "captured"

    largest_head: int = 256

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every dataflow block; each attention becomes a function that TVM makes one."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if not isinstance(function, relax.Function):
                continue
            uses = _uses(function)
            blocks = [self._block(updated, block, uses) for block in function.body.blocks]
            if any(new is not old for new, old in zip(blocks, function.body.blocks)):
                body = relax.SeqExpr(blocks, function.body.body)
                updated.update_func(variable, with_body(function, body))
        return relax.transform.Normalize()(updated)

    def _block(
        self, module: IRModule, block: relax.BindingBlock, uses: Counter[relax.Var]
    ) -> relax.BindingBlock:
        if not isinstance(block, relax.DataflowBlock):
            return block
        graph = _Graph(block.bindings, uses)
        taken: dict[relax.Var, list[relax.VarBinding]] = {}
        for binding in block.bindings:
            found = graph.attention(binding, self.largest_head)
            if found:
                taken[found[-1].var] = found
        if not taken:
            return block
        inner = {binding.var for found in taken.values() for binding in found} | graph.dropped
        kept: list[relax.Binding] = []
        for binding in block.bindings:
            if binding.var in taken:
                kept.append(outlined(module, taken[binding.var], "attention"))
            elif binding.var not in inner:
                kept.append(binding)
        return relax.DataflowBlock(kept)


def _uses(function: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read."""
    uses: Counter[relax.Var] = Counter()

    def visit(node: relax.Expr) -> None:
        if isinstance(node, relax.Var):
            uses[node] += 1

    for block in function.body.blocks:
        for binding in block.bindings:
            relax.analysis.post_order_visit(binding.value, visit)
    relax.analysis.post_order_visit(function.body.body, visit)
    return uses


class _Graph:
    """The bindings of one block, and who reads what.

    Attributes:
        dropped: variables that nothing reads any more once the attentions stand alone.
    """

    def __init__(self, bindings: Sequence[relax.Binding], uses: Counter[relax.Var]) -> None:
        self._order = {binding.var: place for place, binding in enumerate(bindings)}
        self._bindings = [b if isinstance(b, relax.VarBinding) else None for b in bindings]
        self._uses = uses
        self.dropped: set[relax.Var] = set()
        self._reader: dict[relax.Var, relax.VarBinding] = {}
        for binding in bindings:
            if isinstance(binding, relax.VarBinding):
                for variable in relax.analysis.free_vars(binding.value):
                    self._reader[variable] = binding

    def attention(self, binding: relax.Binding, largest: int) -> list[relax.VarBinding] | None:
        """The bindings of the attention whose softmax is `binding`, in order; None: it is none."""
        if not isinstance(binding, relax.VarBinding) or _operator(binding) != _SOFTMAX:
            return None
        axis, rank = int(binding.value.attrs.axis), binding.var.ty.ndim
        scores = self._scores(binding.value.args[0]) if axis in (-1, rank - 1) else None
        if scores is None:
            return None
        middle = self._weighted(binding)
        if not middle or not _fits(scores[0], middle[-1], largest):
            return None
        query, key = scores[0].value.args
        # Few queries read each key once: not worth a copy of old and new keys put together.
        rows = _known(query.ty.shape[-2])
        more = _JOINING if rows is not None and rows < _FEW else frozenset()
        value = middle[-1].value.args[1]
        # Each stands behind what it reads; the order of the block would tell apart what is equal.
        moved = [b for operand in (query, key, value) for b in self._moves(operand, more)]
        found = [*moved, *scores, binding, *middle, *self._after(middle[-1])]
        found = list({b.var: b for b in found}.values())
        if not tells_sizes(found):
            return None
        if len(middle) == 1:
            return found
        self.dropped.add(middle[0].var)
        return _cleared_later(found, binding, *middle)

    def _only_reader(self, binding: relax.VarBinding) -> relax.VarBinding | None:
        return self._reader.get(binding.var) if self._uses[binding.var] == 1 else None

    def _own(self, value: relax.Expr) -> relax.VarBinding | None:
        """The binding of `value`, where only one reads it."""
        if not isinstance(value, relax.Var) or self._uses[value] != 1 or value not in self._order:
            return None
        return self._bindings[self._order[value]]

    def _scores(self, value: relax.Expr) -> list[relax.VarBinding] | None:
        """The first product and the chain from it to `value`."""
        binding = self._own(value)
        if binding is None or str(binding.var.ty.dtype) != _DTYPE:
            return None
        if _operator(binding) == _MATMUL:
            return [binding]
        if _operator(binding) not in _ELEMENTWISE:
            return None
        for argument in binding.value.args:
            if isinstance(argument, relax.Var) and _same_shape(argument, value):
                found = self._scores(argument)
                if found is not None:
                    return [*found, binding]
        return None

    def _weighted(self, softmax: relax.VarBinding) -> list[relax.VarBinding] | None:
        """From softmax to the second product; between them rows may be set to zero."""
        reader = self._only_reader(softmax)
        found: list[relax.VarBinding] = []
        before = softmax
        if reader is not None and _clears_rows(reader, softmax.var):
            found.append(reader)
            before, reader = reader, self._only_reader(reader)
        if reader is None or _operator(reader) != _MATMUL:
            return None
        first, second = reader.value.args
        if not first.same_as(before.var) or second.same_as(before.var):
            return None
        return [*found, reader]

    def _moves(self, value: relax.Expr, more: frozenset[str]) -> list[relax.VarBinding]:
        """What moves or scales the elements of `value` and is read by nothing else."""
        binding = self._own(value)
        if binding is None:
            return []
        if not (_moves_simply(binding) or _operator(binding) in more or _is_scaling(binding)):
            return []
        first = binding.value.args[0]
        parts = first.fields if isinstance(first, relax.Tuple) else [first]
        return [*(b for part in parts for b in self._moves(part, more)), binding]

    def _after(self, binding: relax.VarBinding) -> list[relax.VarBinding]:
        """What moves the elements of the result."""
        reader = self._only_reader(binding)
        if reader is None or not _moves_simply(reader) or not _is_var(reader.value.args[0]):
            return []
        return [reader, *self._after(reader)]


def _cleared_later(
    bindings: Sequence[relax.VarBinding],
    softmax: relax.VarBinding,
    clear: relax.VarBinding,
    product: relax.VarBinding,
) -> list[relax.VarBinding]:
    """`bindings` with rows set to zero after the second product instead of before it."""
    condition, _, zero = clear.value.args
    found = [binding for binding in bindings if binding is not clear]
    whole = relax.DataflowVar("whole", product.var.ty)
    multiplied = relax.Call(
        product.value.op, [softmax.var, product.value.args[1]], product.value.attrs
    )
    cleared = relax.Call(clear.value.op, [condition, whole, zero], clear.value.attrs)
    place = found.index(product)
    made = [relax.VarBinding(whole, multiplied), relax.VarBinding(product.var, cleared)]
    return [*found[:place], *made, *found[place + 1 :]]


def _operator(binding: relax.VarBinding) -> str:
    value = binding.value
    return value.op.name if isinstance(value, relax.Call) and isinstance(value.op, Op) else ""


def _moves_simply(binding: relax.VarBinding) -> bool:
    """Whether it moves elements, to subscripts that stay short.

    A reshape of open sizes divides by them, which TVM's simplifier takes minutes for once the
    divisions stand in each other; it is free where it stands alone.
    """
    if _operator(binding) != "relax.reshape":
        return _operator(binding) in _MOVING
    types = (binding.var.ty, binding.value.args[0].ty)
    return not any(len(relax.analysis.tir_vars_in_type(ty)) for ty in types)


def _is_var(value: relax.Expr) -> bool:
    return isinstance(value, relax.Var)


def _is_scaling(binding: relax.VarBinding) -> bool:
    """A product with a number; the tensor stands first."""
    if _operator(binding) != "relax.multiply":
        return False
    x, factor = binding.value.args
    return _is_var(x) and isinstance(factor, GenericConst) and factor.ty.ndim == 0


def _clears_rows(binding: relax.VarBinding, softmax: relax.Var) -> bool:
    """where(condition of each row, softmax, 0)."""
    if _operator(binding) != _WHERE:
        return False
    condition, kept, other = binding.value.args
    if not kept.same_as(softmax) or not isinstance(other, GenericConst) or other.ty.ndim:
        return False
    shape = getattr(condition.ty.shape, "values", None)
    return bool(shape) and _known(shape[-1]) == 1 and not float(other.value.numpy())


def _known(size: Any) -> int | None:
    return int(size) if isinstance(size, tirx.IntImm) else None


def _same_shape(one: relax.Expr, other: relax.Expr) -> bool:
    shapes = [getattr(value.ty.shape, "values", None) for value in (one, other)]
    return None not in shapes and tvm_ffi.structural_equal(*shapes)


def _fits(first: relax.VarBinding, second: relax.VarBinding, largest: int) -> bool:
    """Whether the kernel knows operands of these products: float32, several heads, short rows."""
    operands = [*first.value.args, second.value.args[1]]
    for operand in (*operands, second.var):
        if str(operand.ty.dtype) != _DTYPE or not hasattr(operand.ty.shape, "values"):
            return False
    if min(operand.ty.ndim for operand in operands) < 3:
        return False
    sizes = [_known(operands[0].ty.shape[-1]), _known(operands[2].ty.shape[-1])]
    return all(size is not None and 1 < size <= largest for size in sizes)
