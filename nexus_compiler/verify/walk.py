"""Goes through a graph that was cut into regions, from one border to the next.

Regions are computed by whoever asks; what stands between them (what follows from weights and is
shared, matches of sizes, calls that only TVM can read) is computed by the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GlobalVar, PrimType
from tvm.sym import Analyzer

from nexus_compiler.ir.calls import callees
from nexus_compiler.ir.region import Region, as_function
from nexus_compiler.passes.regions import Outlined
from nexus_compiler.verify.evaluate import Evaluator
from nexus_runtime.errors import UnsupportedOperator

Shape = tuple[int | None, ...]
"""A size is None where only a run tells it."""
At = Callable[[int, Region, list[np.ndarray]], Sequence[np.ndarray]]
"""Told the place (the first is 0), the region and its arguments; gives its outputs."""
_TO_SHAPE = "vm.builtin.tensor_to_shape"


class Enough(Exception):
    """Raised by an `At` that needs to see no more."""


@dataclass(frozen=True)
class Stop:
    """A region at a place, and the shapes of its arguments there."""

    region: Region
    shapes: tuple[Shape, ...]

    @property
    def known(self) -> bool:
        """Whether all sizes are known before a run."""
        return all(size is not None for shape in self.shapes for size in shape)


def is_cut(graph: Outlined, function: str) -> bool:
    """Whether `function` of `graph` is made of regions."""
    return any(place.function == function for place in graph.places)


def stops(graph: Outlined, function: str, shapes: Sequence[Shape]) -> list[Stop]:
    """All places of `function`, in order, for arguments of `shapes`; computes nothing."""
    return list(_stops(graph, graph.module[function], shapes))


def _stops(graph: Outlined, function: relax.Function, shapes: Sequence[Shape]) -> Iterator[Stop]:
    sizes: dict[tirx.Var, int] = {}
    for parameter, shape in zip(function.params, shapes):
        _learn(sizes, parameter.ty, shape)
    for binding in _bindings(function):
        callee = _callee(binding.value)
        if callee is None:
            continue
        given = [_shape(argument.ty, sizes) for argument in binding.value.args]
        name = str(callee.name_hint)
        if name in graph.regions:
            yield Stop(graph.regions[name], tuple(given))
        elif name in graph.layers:
            yield from _stops(graph, graph.module[callee], given)


def run(
    graph: Outlined,
    function: str,
    arguments: Sequence[np.ndarray],
    *,
    at: At,
    evaluator: Evaluator,
) -> list[np.ndarray]:
    """The outputs of `function` for `arguments`, with each region computed by `at`.

    Raises:
        UnsupportedOperator: what stands between two regions cannot be computed.
        Enough: as `at` does.
    """
    walk = _Walk(graph, at, evaluator)
    result = _Frame(walk, graph.module[function], arguments).result()
    return list(result) if isinstance(result, tuple) else [result]


@dataclass
class _Walk:
    graph: Outlined
    at: At
    evaluator: Evaluator
    place: int = 0

    def call(self, callee: GlobalVar, arguments: list[Any]) -> Any:
        """What a region or a layer returns; None where `callee` is neither."""
        name = str(callee.name_hint)
        if name in self.graph.regions:
            self.place += 1
            return tuple(self.at(self.place - 1, self.graph.regions[name], arguments))
        if name in self.graph.layers:
            return _Frame(self, self.graph.module[callee], arguments).result()
        return None


@dataclass
class _Frame:
    """One call of a function: its variables, as long as somebody reads them, and its sizes."""

    walk: _Walk
    function: relax.Function
    arguments: Sequence[Any]
    values: dict[relax.Var, Any] = field(default_factory=dict[Any, Any])
    sizes: dict[tirx.Var, int] = field(default_factory=dict[Any, Any])

    def result(self) -> Any:
        for parameter, argument in zip(self.function.params, self.arguments, strict=True):
            self._bind(parameter, argument)
        bindings = _bindings(self.function)
        last = _last_reads(bindings, self.function.body.body)
        for position, binding in enumerate(bindings):
            self._bind(binding.var, self._value(binding))
            for variable in last.get(position, ()):
                self.values.pop(variable, None)
        return self._read(self.function.body.body)

    def _bind(self, variable: relax.Var, value: Any) -> None:
        self.values[variable] = value
        if isinstance(variable.ty, relax.ShapeType):
            _learn(self.sizes, variable.ty, value)
        elif not isinstance(value, tuple):
            _learn(self.sizes, variable.ty, value.shape)

    def _read(self, expression: Any) -> Any:
        if isinstance(expression, relax.Tuple):
            return tuple([self._read(one) for one in expression.fields])
        return self.values[expression]

    def _value(self, binding: Any) -> Any:
        value = binding.value
        if isinstance(binding, relax.MatchCast):
            return self._read(value)
        if isinstance(value, relax.Var | relax.Tuple):
            return self._read(value)
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.values:
            return self.values[value.tuple_value][int(value.index)]
        if (callee := _callee(value)) is not None:
            found = self.walk.call(callee, [self._read(one) for one in value.args])
            if found is not None:
                return found
        return self._computed(binding)

    def _computed(self, binding: Any) -> Any:
        read = _reads(binding.value)
        if isinstance(binding.var.ty, relax.ShapeType):
            return _as_shape(binding.value, [self.values[variable] for variable in read])
        outputs, bindings = [binding.var], [binding]
        is_tuple = isinstance(binding.var.ty, relax.TupleType)
        if is_tuple:
            outputs = [relax.DataflowVar("part", kind) for kind in binding.var.ty.fields]
            parts = [relax.TupleGetItem(binding.var, place) for place in range(len(outputs))]
            bindings += [relax.VarBinding(var, part) for var, part in zip(outputs, parts)]
        function = as_function(read, bindings, outputs)
        _, found = self.walk.evaluator.call(
            function,
            [self.values[variable] for variable in read],
            callees=self._callees(binding.value),
            sizes=self._sizes_of(function),
        )
        return tuple(found) if is_tuple else found[0]

    def _sizes_of(self, function: relax.Function) -> dict[tirx.Var, int]:
        """The sizes that `function` takes from around it; they have their names from there."""
        known: dict[str, set[int]] = {}
        for variable, size in self.sizes.items():
            known.setdefault(str(variable.name), set()).add(size)
        free = relax.analysis.free_symbolic_vars(function)
        return {v: min(known[v.name]) for v in free if len(known.get(str(v.name), ())) == 1}

    def _callees(self, value: Any) -> Mapping[GlobalVar, relax.Function]:
        called = callees(relax.Function([], value, value.ty, is_pure=False))
        return {variable: self.walk.graph.module[variable] for variable in called}


def _bindings(function: relax.Function) -> list[Any]:
    return [binding for block in function.body.blocks for binding in block.bindings]


def _reads(value: Any) -> list[relax.Var]:
    """The variables in `value` but for sizes."""
    found = relax.analysis.free_vars(value)
    return [variable for variable in found if not isinstance(variable.ty, PrimType)]


def _callee(value: Any) -> GlobalVar | None:
    callee = getattr(value, "op", None)
    return callee if isinstance(callee, GlobalVar) else None


def _as_shape(value: Any, read: Sequence[Any]) -> tuple[int, ...]:
    """The one thing that makes sizes of values: a tensor that holds them."""
    callee = value.args[0] if isinstance(value, relax.Call) and len(value.args) else None
    if len(read) != 1 or str(getattr(callee, "global_symbol", "")) != _TO_SHAPE:
        raise UnsupportedOperator(f"no reference computes the shape {value}")
    return tuple(int(size) for size in read[0])


def _last_reads(bindings: Sequence[Any], result: Any) -> dict[int, list[relax.Var]]:
    """The variables that nobody reads after the binding of each position."""
    seen = set(_reads(result))
    last: dict[int, list[relax.Var]] = {}
    for position in reversed(range(len(bindings))):
        for variable in _reads(bindings[position].value):
            if variable not in seen:
                seen.add(variable)
                last.setdefault(position, []).append(variable)
    return last


def _learn(sizes: dict[tirx.Var, int], kind: Any, shape: Sequence[int | None]) -> None:
    """Take the sizes of symbolic dimensions from an actual shape."""
    values = getattr(getattr(kind, "shape", kind), "values", None)
    for dim, size in [] if values is None else zip(values, shape):
        if isinstance(dim, tirx.Var) and size is not None:
            sizes.setdefault(dim, size)


def _shape(kind: Any, sizes: Mapping[tirx.Var, int]) -> Shape:
    """The sizes of a tensor of type `kind`."""
    return tuple([_size(dim, sizes) for dim in kind.shape.values])


def _size(dim: Any, sizes: Mapping[tirx.Var, int]) -> int | None:
    if not isinstance(dim, tirx.IntImm):
        variables = tirx.analysis.undefined_vars(dim)
        if any(variable not in sizes for variable in variables):
            return None
        known = {v: tirx.IntImm(str(v.ty.dtype), sizes[v]) for v in variables}
        closed = tvm_ffi.structural_map(dim, (tirx.Var, lambda variable: known[variable]))
        dim = Analyzer().simplify(closed)
    return int(dim) if isinstance(dim, tirx.IntImm) else None
