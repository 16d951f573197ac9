"""Recognises attention: softmax(f(q k')) v as the stages into which legalization takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import Call, TensorLoad

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.product import operands


@dataclass(frozen=True)
class Attention:
    """out[outer, row, column] = sum over keys of softmax(score(sum over steps q k)) v.

    All expressions are over the axes here.

    Attributes:
        row: the axis of queries; None where there is one.
        query: of outer, row and step.
        key: of outer, key and step.
        value: of outer, key and column.
        scores: what softmax takes, with loads of `products` in it.
        products: where the naive kernel keeps the sums of q k.
        total: the second product.
        after: an elementwise stage behind it.
    """

    outer: tuple[tirx.IterVar, ...]
    row: tirx.IterVar | None
    key_axis: tirx.IterVar
    step: tirx.IterVar
    column: tirx.IterVar
    query: Any
    key: Any
    value: Any
    scores: Any
    products: tirx.Buffer
    total: Stage
    after: Stage | None

    def score(self, product: Any, values: dict[Any, Any]) -> Any:
        """What softmax takes for one sum of q k."""
        made = kernel.substitute(self.scores, values)
        return kernel.replace_loads(made, self.products, lambda _: product)

    def finish(self, result: Any, values: dict[Any, Any]) -> tirx.Stmt:
        """Store one result."""
        direct = None if self.after is None else _inverted(self.after, self.total, values)
        if self.after is None or direct is None:
            return tirx.BufferStore(
                self.total.store.buffer,
                result,
                [kernel.substitute(index, values) for index in self.total.store.indices],
            )
        store = self.after.store
        value = kernel.replace_loads(store.value, self.total.store.buffer, lambda _: result)
        indices = [kernel.substitute(index, direct) for index in store.indices]
        return tirx.BufferStore(store.buffer, kernel.substitute(value, direct), indices)

    @property
    def pending(self) -> Stage | None:
        """The stage that has to run afterwards; None where `finish` did its work."""
        if self.after is None:
            return None
        names = {axis.var: axis.var for axis in (*self.total.spatial,)}
        return self.after if _inverted(self.after, self.total, names) is None else None


def recognise(kernel_: Kernel) -> Attention | None:
    """Find the parts; None where the form is another."""
    reduced = [stage for stage in kernel_.stages if stage.reduced]
    if len(reduced) != 4 or any(stage.init is None for stage in reduced):
        return None
    product, largest, powers, total = reduced
    place = kernel_.stages.index(total)
    after = kernel_.stages[place + 1 :]
    if len(after) > 1 or len(total.reduced) != 1 or len(product.reduced) != 1:
        return None
    parts = _Parts(kernel_.stages)
    found = operands(total)
    if found is None:
        return None
    shares, value = found if parts.is_share(found[0]) else found[::-1]
    value = parts.plain(value)
    scores = parts.softmax(shares, product, largest, powers)
    loads = [] if scores is None else kernel.loads(scores, product.store.buffer)
    if not loads or not all(kernel.same(load, loads[0]) for load in loads):
        return None
    factors = operands(product)
    if factors is None:
        return None
    at = product.axes_at(loads[0].indices)
    query, key = (kernel.substitute(parts.plain(factor), at) for factor in factors)
    key_axis, step = total.reduced[0], product.reduced[0]
    if key_axis.var in kernel.variables(query):
        query, key = key, query
    return _assemble(
        total,
        after[0] if after else None,
        (query, key, value),
        (key_axis, step),
        scores,
        product.store.buffer,
    )


def _assemble(
    total: Stage,
    after: Stage | None,
    parts: tuple[Any, Any, Any],
    axes: tuple[tirx.IterVar, tirx.IterVar],
    scores: Any,
    products: tirx.Buffer,
) -> Attention | None:
    query, key, value = parts
    key_axis, step = axes
    *others, column = total.spatial
    of_query, of_key, of_value = (kernel.variables(part) for part in parts)
    if column.var in of_query | of_key | kernel.variables(scores) or column.var not in of_value:
        return None
    if key_axis.var in of_query or not {key_axis.var, step.var} <= of_key:
        return None
    if step.var not in of_query or step.var in of_value | kernel.variables(scores):
        return None
    if build.known(step.dom.extent) is None or build.known(column.dom.extent) is None:
        return None
    row = others[-1] if others and others[-1].var not in of_key | of_value else None
    outer = tuple(others[:-1]) if row is not None else tuple(others)
    return Attention(
        outer, row, key_axis, step, column, query, key, value, scores, products, total, after
    )


class _Parts:
    """Stages by the buffers that they write."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def _writer(self, load: TensorLoad) -> Stage | None:
        for stage in self._stages:
            if load.source.same_as(stage.store.buffer):
                return stage
        return None

    def is_share(self, value: Any) -> bool:
        """Whether it is an element of the softmax: what a stage before made by a division."""
        return isinstance(value, TensorLoad) and isinstance(self.plain(value), tirx.Div)

    def plain(self, value: Any) -> Any:
        """`value` with what elementwise stages make put in the place of their buffers."""

        def element(load: TensorLoad) -> Any:
            writer = self._writer(load)
            if writer is None or writer.reduced:
                return load
            return self.plain(kernel.substitute(writer.store.value, writer.axes_at(load.indices)))

        return kernel.replace_all_loads(value, element)

    def softmax(self, share: Any, product: Stage, largest: Stage, powers: Stage) -> Any:
        """What softmax takes; None where `share` is no element of one."""
        value = self.plain(share)
        if not isinstance(value, tirx.Div) or not _is_exp(value.a):
            return None
        difference, sums = value.a.args[0], value.b
        if not isinstance(difference, tirx.Sub) or not isinstance(difference.b, TensorLoad):
            return None
        if not isinstance(sums, TensorLoad) or not sums.source.same_as(powers.store.buffer):
            return None
        scores, peak = difference.a, difference.b
        if not peak.source.same_as(largest.store.buffer):
            return None
        if not isinstance(largest.store.value, tirx.Max):
            return None
        if not isinstance(powers.store.value, tirx.Add):
            return None
        (key,) = _keys(scores, product)
        searched = _other(largest)
        summed = _other(powers)
        if searched is None or summed is None:
            return None
        own = largest.axes_at(peak.indices) | {largest.reduced[0].var: key}
        if not kernel.same(kernel.substitute(self.plain(searched), own), scores):
            return None
        own = powers.axes_at(sums.indices) | {powers.reduced[0].var: key}
        if not kernel.same(kernel.substitute(self.plain(summed), own), value.a):
            return None
        return scores


def _keys(scores: Any, product: Stage) -> list[Any]:
    """The subscript of the keys in the first load of the products."""
    loads = kernel.loads(scores, product.store.buffer)
    return [loads[0].indices[-1]] if loads else [None]


def _other(stage: Stage) -> Any:
    """What a reduction combines its result with."""
    value, buffer = stage.store.value, stage.store.buffer
    for own, other in ((value.a, value.b), (value.b, value.a)):
        if isinstance(own, TensorLoad) and own.source.same_as(buffer):
            return other
    return None


def _is_exp(value: Any) -> bool:
    return isinstance(value, Call) and kernel.operator(value) == "exp"


def _inverted(after: Stage, total: Stage, values: dict[Any, Any]) -> dict[Any, Any] | None:
    """The values of the axes of `after` where it reads the result at `values`.

    It may put two axes together, `result[a // n, a % n]`. None where it does anything else.
    """
    found = kernel.loads(after.store.value, total.store.buffer)
    if not found or not all(kernel.same(load, found[0]) for load in found):
        return None
    whole: dict[Any, Any] = {}
    high: dict[Any, Any] = {}
    low: dict[Any, tuple[Any, int]] = {}
    for index, own in zip(found[0].indices, total.store.indices):
        place = values.get(own) if isinstance(own, tirx.Var) else None
        if isinstance(index, tirx.Var):
            whole[index] = build.number(0) if place is None else place
        elif place is None and kernel.is_const(index):
            continue
        elif _divides(index, tirx.FloorDiv):
            high[index.a] = build.number(0) if place is None else place
        elif _divides(index, tirx.FloorMod) and place is not None:
            low[index.a] = (place, int(index.b))
        else:
            return None
    if high.keys() != low.keys():
        return None
    whole |= {name: high[name] * low[name][1] + low[name][0] for name in high}
    if {axis.var for axis in after.spatial} != set(whole) or len(whole) != len(after.spatial):
        return None
    turns = [build.product(build.extents(stage.spatial)) for stage in (after, total)]
    return whole if kernel.same(*map(build.number, turns)) else None


def _divides(index: Any, kind: Any) -> bool:
    return isinstance(index, kind) and isinstance(index.a, tirx.Var) and kernel.is_const(index.b)
