"""Results whose size depends on data: the run tells it, as a new dimension of the graph."""

from __future__ import annotations

import functools
from typing import Any

import sympy
import torch
from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R


def measure(node: Node, number: relax.Expr, symbol: Size) -> None:
    """Make `symbol` known as the value of an integer scalar.

    A run stops where it is negative, or is not what PyTorch was told of it (`torch._check`).
    """
    flat = node.reshape(node.cast(number, "int64"), [1])
    wrong = R.less(flat, node.scalar(0, "int64"))
    for relation in _demands(node, symbol):
        wrong = R.logical_or(wrong, R.logical_not(_tensor(node, relation, symbol, flat)))
    node.importer.dims.bind([symbol])
    # A second number, which must be zero: whether the first is wrong.
    checked = node.emit(R.concat([flat, node.cast(node.emit(wrong), "int64")], 0))
    shape = relax.op.call_pure_packed(
        "vm.builtin.tensor_to_shape", checked, ty_args=relax.ShapeType(ndim=2)
    )
    node.importer.shapes.match_shape(node.emit(shape), node.dims([symbol, 0]))


def _demands(node: Node, symbol: Any) -> list[Any]:
    """What must hold of a size that data tell: bounds, and relations to sizes known before it."""
    number = node.out if isinstance(node.out, torch.SymInt) else node.out.shape[0]
    if not isinstance(number, torch.SymInt):
        return []
    environment: Any = number.node.shape_env
    bounds = environment.bound_sympy(symbol)
    found: list[Any] = []
    if isinstance(bounds.upper, sympy.Integer):
        found.append(sympy.Le(symbol, bounds.upper, evaluate=False))
    if isinstance(bounds.lower, sympy.Integer) and bounds.lower > 0:
        found.append(sympy.Ge(symbol, bounds.lower, evaluate=False))
    found += [one.expr for one in environment.deferred_runtime_asserts.get(symbol, ())]
    return [relation for relation in found if isinstance(relation, sympy.Rel)]


_RELATIONS = {"<": R.less, "<=": R.less_equal, ">": R.greater, ">=": R.greater_equal,
              "==": R.equal, "!=": R.not_equal}  # fmt: skip
_PARTS = {"Add": R.add, "Mul": R.multiply, "FloorDiv": R.floor_divide, "Mod": R.floor_mod,
          "PythonMod": R.floor_mod, "Max": R.maximum, "Min": R.minimum}  # fmt: skip


def _tensor(node: Node, expr: Any, symbol: Any, value: relax.Expr) -> relax.Expr:
    """A relation or a size as a tensor, where `symbol` is the tensor `value`."""
    if expr == symbol:
        return value
    if symbol not in expr.free_symbols:
        return node.scalar(sizes.number(expr), "int64")
    parts = [_tensor(node, part, symbol, value) for part in expr.args]
    if isinstance(expr, sympy.Rel):
        return node.emit(_RELATIONS[str(getattr(expr, "rel_op", ""))](*parts))
    if (make := _PARTS.get(type(expr).__name__)) is None:
        raise node.refuse(f"what must hold of its value, {expr}, cannot be checked")
    return node.emit(functools.reduce(make, parts))


def places(node: Node, mask: relax.Expr, shape: list[Size], count: Size) -> list[relax.Var]:
    """Where a mask of `shape` is set, in order: one int64 vector of `count` for each axis.

    Each place goes where the running number of set elements says; all others go to a spare slot.
    """
    total = sizes.product(shape)
    flags = node.reshape(node.cast(mask, "bool"), [total])
    numbers = node.cast(flags, "int64")
    found = node.emit(R.sum(numbers))
    if sizes.is_symbolic(count) and count not in node.importer.dims.known:
        measure(node, found, count)
    running = node.emit(R.subtract(node.emit(R.cumsum(numbers, 0)), node.scalar(1, "int64")))
    slots = node.emit(R.where(flags, running, found))
    table = node.full([count + 1], 0, "int64")
    order = node.emit(R.arange(0, *node.dims([total]), dtype="int64"))
    filled = node.emit(R.scatter_elements(table, slots, order, 0, "update"))
    kept = node.emit(R.arange(0, *node.dims([count]), dtype="int64"))
    flat = node.emit(R.take(filled, kept, 0, mode="clip"))
    axes: list[relax.Var] = []
    for size in reversed(shape):
        length = node.scalar(size, "int64")
        axes.insert(0, node.emit(R.floor_mod(flat, length)))
        flat = node.emit(R.floor_divide(flat, length))
    return axes


@op("nonzero")
def nonzero(node: Node) -> Any:
    """The places of all elements that are not 0, one a row."""
    count, rank = node.shape
    if rank == 0:
        raise node.refuse("its input is a scalar")
    columns = places(node, node["self"], node.shape_of("self"), count)
    return R.concat([node.reshape(column, [count, 1]) for column in columns], 1)


@op("masked_select")
def masked_select(node: Node) -> Any:
    """The elements where a mask is set, as a vector."""
    shapes = [node.shape_of("self"), node.shape_of("mask")]
    whole = shapes[0] if len(shapes[0]) >= len(shapes[1]) else shapes[1]
    if any(shape != whole for shape in shapes):
        raise node.refuse("the mask has another shape", "expand both to one shape")
    (flat,) = places(node, node["mask"], [sizes.product(whole)], node.shape[0])
    return R.take(node.reshape(node["self"], [sizes.product(whole)]), flat, 0, mode="clip")


@op("_local_scalar_dense")
def item(node: Node) -> Any:
    """An integer out of a tensor, as a size."""
    value = sizes.plain(node.out)
    if not isinstance(value, sympy.Symbol) or "int" not in dtype_of(node["self"]):
        raise node.refuse("only integers can leave a tensor", "calculate with the tensor itself")
    if value not in node.importer.dims.known:
        measure(node, node["self"], value)
    return value
