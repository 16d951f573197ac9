"""Reductions, products, and operations that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.tracing.emission.elementwise import different
from nexus_compiler.frontend.tracing.emission.operation import EMITTERS, Operation, emitter

op = relax.op


def _reduction(name: str) -> Any:
    def emit(it: Operation) -> Any:
        axes, keepdims = it.attrs
        return getattr(op, name)(it.x, list(axes), keepdims)

    return emit


for _name in ("sum", "mean", "prod"):
    EMITTERS[_name] = _reduction(_name)


def _extreme(name: str) -> Any:
    def emit(it: Operation) -> Any:
        axes, keepdims = list(it.attrs[0]), it.attrs[1]
        found = getattr(op, name)(it.x, axes, keepdims)
        if it.kind != "f":
            return found
        # TVM's comparison passes over NaN.
        odd = it.cast(it.emit(op.isnan(it.x)), "int32")
        some = it.emit(op.sum(odd, axes, keepdims))
        nan = it.number(float("nan"))
        return op.where(it.emit(op.greater(some, it.number(0, "int32"))), nan, it.emit(found))

    return emit


EMITTERS["max"], EMITTERS["min"] = _extreme("max"), _extreme("min")


def _logic(name: str) -> Any:
    def emit(it: Operation) -> Any:
        axes, keepdims = list(it.attrs[0]), it.attrs[1]
        flags = it.x
        if it.of != "bool":
            flags = it.emit(different(it, it.x, it.number(0, it.of)))
        counted = it.emit(op.astype(flags, "int32"))
        pick = op.min if name == "all" else op.max
        return op.astype(it.emit(pick(counted, axes, keepdims)), "bool")

    return emit


EMITTERS["all"], EMITTERS["any"] = _logic("all"), _logic("any")


def _position(name: str) -> Any:
    """The first place that holds the extreme: TVM's own starts from the least number, and gives -1
    where all elements are that.
    """

    def emit(it: Operation) -> Any:
        axis, keepdims = it.attrs
        x = it.x if axis is not None else it.emit(op.flatten(it.x))
        along = 0 if axis is None else axis
        extreme = Operation((x,), ((along,), True), (), it.of, it.emit)
        best = it.emit(EMITTERS[name](extreme))  # NaN where one is, which then is the hit
        hit = it.emit(op.equal(x, best))
        if it.kind == "f":
            hit = it.emit(op.logical_or(hit, it.emit(op.isnan(x))))
        size = x.ty.shape.values[along]
        lined = [size if one == along else 1 for one in range(x.ty.ndim)]
        places = it.emit(op.reshape(it.emit(op.arange(0, size, 1, "int64")), lined))
        far = it.number(2**62, "int64")
        found = it.emit(op.min(it.emit(op.where(hit, places, far)), [along], keepdims))
        if axis is None and keepdims:
            return op.reshape(found, [1] * it.x.ty.ndim)
        return found

    return emit


EMITTERS["argmax"], EMITTERS["argmin"] = _position("max"), _position("min")


@emitter("cumulative_sum")
def _cumulative_sum(it: Operation) -> Any:
    return op.cumsum(it.x, it.attrs[0], it.dtype)


@emitter("cumulative_prod")
def _cumulative_prod(it: Operation) -> Any:
    return op.cumprod(it.x, it.attrs[0], it.dtype)


@emitter("argsort")
def _argsort(it: Operation) -> Any:
    axis, descending = it.attrs
    if it.kind != "f":
        return op.argsort(_as_int64(it), axis, descending, "int64")
    # A comparison with NaN breaks the order that the sort relies on: NaN goes last in a second one.
    odd = it.emit(op.isnan(it.x))
    end = it.number(float("-inf" if descending else "inf"), it.of)
    filled = it.emit(op.where(odd, end, it.x))
    first = it.emit(op.argsort(filled, axis, descending, "int64"))
    flags = it.emit(op.gather_elements(it.cast(odd, "int32"), first, axis))
    second = it.emit(op.argsort(flags, axis, False, "int64"))
    return op.gather_elements(first, second, axis)


def _as_int64(it: Operation) -> Any:
    """Integers as int64 in the same order: the sort knows few dtypes."""
    if it.of != "uint64":
        return it.cast(it.x, "int64")
    top = it.emit(op.bitwise_xor(it.x, it.number(2**63, "uint64")))
    return it.cast(top, "int64")


@emitter("matmul")
def _matmul(it: Operation) -> Any:
    dtype = np.dtype(it.dtype)
    if dtype.kind == "f" or dtype.itemsize == 8:
        return op.matmul(*it.inputs)
    wide = "uint64" if dtype.kind == "u" else "int64"
    return op.astype(it.emit(op.matmul(*(it.cast(one, wide) for one in it.inputs))), it.dtype)


@emitter("reshape")
def _reshape(it: Operation) -> Any:
    return op.reshape(it.x, relax.ShapeExpr(list(it.sizes)))


@emitter("broadcast_to")
def _broadcast_to(it: Operation) -> Any:
    return op.broadcast_to(it.x, relax.ShapeExpr(list(it.sizes)))


@emitter("full")
def _full(it: Operation) -> Any:
    # TVM's own "full" stumbles over NaN and infinity.
    return op.broadcast_to(it.x, relax.ShapeExpr(list(it.sizes))) if it.sizes else it.x


@emitter("arange")
def _arange(it: Operation) -> Any:
    start, step = it.attrs
    counted = it.emit(op.arange(0, it.sizes[0], 1, "int64"))
    scaled = it.emit(op.multiply(counted, it.number(step, "int64")))
    return op.astype(it.emit(op.add(scaled, it.number(start, "int64"))), it.dtype)


@emitter("concat")
def _concat(it: Operation) -> Any:
    return op.concat(list(it.inputs), it.attrs[0])


@emitter("permute_dims")
def _permute_dims(it: Operation) -> Any:
    return op.permute_dims(it.x, list(it.attrs[0]))


@emitter("flip")
def _flip(it: Operation) -> Any:
    return op.flip(it.x, it.attrs[0])


@emitter("slice")
def _slice(it: Operation) -> Any:
    (axis, step), (start, stop) = it.attrs, it.sizes
    return op.strided_slice(it.x, [axis], [start], [stop], [step], assume_inbound=True)


@emitter("take")
def _take(it: Operation) -> Any:
    return op.take(*it.inputs, axis=it.attrs[0], mode="clip")


@emitter("gather")
def _gather(it: Operation) -> Any:
    return op.gather_elements(*it.inputs, axis=it.attrs[0])


EMITTERS["tril"] = lambda it: op.tril(it.x, it.attrs[0])
EMITTERS["triu"] = lambda it: op.triu(it.x, it.attrs[0])
