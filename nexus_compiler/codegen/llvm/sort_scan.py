"""Sorts and scans, which `legalize` has no kernels for."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, topi

from nexus_compiler.codegen.llvm.orders import kernels, scans
from nexus_compiler.passes.legalize import Legalization


def _sort(builder: relax.BlockBuilder, call: Any) -> Any:
    x, attrs = call.args[0], call.attrs
    axis = int(attrs.axis) % x.ty.ndim
    return builder.call_te(kernels.sorted_values, x, axis, bool(attrs.descending))


def _argsort(builder: relax.BlockBuilder, call: Any) -> Any:
    x, attrs = call.args[0], call.attrs
    axis, down = int(attrs.axis) % x.ty.ndim, bool(attrs.descending)
    return builder.call_te(kernels.argsort, x, axis, down, _plain(attrs.dtype))


def _topk(builder: relax.BlockBuilder, call: Any) -> Any:
    x, attrs = call.args[0], call.attrs
    axis, parts = int(attrs.axis) % x.ty.ndim, str(attrs.ret_type)
    largest, wanted = bool(attrs.largest), int(attrs.k)
    dtype = _plain(attrs.dtype)
    return builder.call_te(kernels.topk, x, wanted, axis, parts, largest, dtype)


def _scan(*, product: bool) -> Legalization:
    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        x, attrs = call.args[0], call.attrs
        axis = None if attrs.axis is None else int(attrs.axis) % x.ty.ndim
        dtype = _plain(call.ty.dtype)
        return builder.call_te(scans.scan, x, axis, dtype, bool(attrs.exclusive), product)

    return legalize


def _bucketize(builder: relax.BlockBuilder, call: Any) -> Any:
    x, borders = call.args
    dtype = "int32" if call.attrs.out_int32 else "int64"
    with tvm.target.Target("llvm"):
        return builder.call_te(topi.searchsorted, borders, x, bool(call.attrs.right), dtype)


def _plain(dtype: Any) -> str:
    return str(getattr(dtype, "dtype", dtype))


KERNELS: dict[str, Legalization] = {
    "relax.sort": _sort,
    "relax.argsort": _argsort,
    "relax.topk": _topk,
    "relax.cumsum": _scan(product=False),
    "relax.cumprod": _scan(product=True),
    "relax.bucketize": _bucketize,
}
