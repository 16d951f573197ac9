"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims

op = relax.op


def _matmul(site: Site) -> Sequence[relax.Expr | None]:
    """Many rows times one weight: the rows of all batches count as one matrix.

    TVM's rule makes a gradient of the weight for each batch and adds them up; this one is a single
    product.
    """
    left, right = site.args
    shape = dims(left)
    if len(shape) < 3 or len(dims(right)) != 2:
        return site.tvm()
    rows = shape[0]
    for dim in shape[1:-1]:
        rows = rows * dim
    features, units = dims(right)
    flat = site.reshape(left, [rows, features])
    adjoint = site.reshape(site.adjoint, [rows, units])
    by_left = site.put(op.matmul(adjoint, site.put(op.permute_dims(right))))
    by_right = site.put(op.matmul(site.put(op.permute_dims(flat)), adjoint))
    return [site.like(by_left, left), by_right]


def _outer(site: Site) -> Sequence[relax.Expr | None]:
    left, right = site.args
    by_left = site.put(op.matmul(site.adjoint, right))
    return [by_left, site.put(op.matmul(left, site.adjoint))]


RULES: dict[str, Rule] = {"matmul": _matmul, "outer": _outer}
