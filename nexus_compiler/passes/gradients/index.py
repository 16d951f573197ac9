"""Values that are picked by indices."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims

op = relax.op


def _take(site: Site) -> Sequence[relax.Expr | None]:
    """TVM's scatter takes indices of one dimension only: they are flattened for it."""
    x, indices = site.args
    axis = site.attrs.axis
    if axis is None:
        raise NotImplementedError("take over a flattened tensor")
    axis, shape, many = int(axis) % len(dims(x)), dims(x), dims(indices)
    total = 1
    for dim in many:
        total = total * dim
    flat = site.reshape(indices, [total])
    adjoint = site.reshape(site.adjoint, [*shape[:axis], total, *shape[axis + 1 :]])
    return [site.put(op.grad.take_backward(adjoint, x, flat, axis=axis)), None]


def _gather_elements(site: Site) -> Sequence[relax.Expr | None]:
    x, indices = site.args
    empty = site.put(op.zeros(x.ty.shape, str(x.ty.dtype.dtype)))
    axis = int(site.attrs.axis)
    return [
        site.put(op.scatter_elements(empty, indices, site.adjoint, axis=axis, reduction="add")),
        None,
    ]


RULES: dict[str, Rule] = {"gather_elements": _gather_elements, "take": _take}
