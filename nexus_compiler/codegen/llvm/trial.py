"""Runs a few kernels by themselves on random numbers, to time them and to compare what they make.

A module of one kernel, or of one whose function `main` calls kernels and nothing else: what runs
once at load runs once here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir.expr import GenericConst

from nexus_compiler.passes.prepare_weights import RUN
from nexus_compiler.passes.weights import PREPARE
from nexus_runtime.errors import TargetError

_Calls = list[Callable[[], Any]]


class Trial:
    """See `Trial` in `codegen/door.py`.

    Sets of arguments share the first input and what is computed, which another kernel has just
    made or will read at once; what else a kernel reads, weights above all, comes from far.

    Args:
        module: scheduled.
        kernels: what runs, by the names in `module`.
    """

    def __init__(self, module: IRModule, kernels: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = {str(v.name_hint): f for v, f in module.functions.items()}
        self._kernels = kernels
        self._turns: list[_Calls] = []
        self._results: list[list[Any]] = []
        self._near: list[Any] = []
        self._place = 0

    def draw(self, seed: int, copies: int) -> None:
        """As of the door."""
        self._turns, self._results, self._near = [], [], []
        for _ in range(copies):
            self._place = 0
            calls, results = self._bound(np.random.default_rng(seed))
            self._turns.append(calls)
            self._results.append(results)

    def run(self, turn: int) -> None:
        """As of the door."""
        for call in self._turns[turn % len(self._turns)]:
            call()

    def results(self) -> list[np.ndarray]:
        """As of the door."""
        self.run(0)
        return [result.numpy() for result in self._results[0]]

    def _bound(self, source: np.random.Generator) -> tuple[_Calls, list[Any]]:
        whole = {n: f for n, f in self._functions.items() if isinstance(f, relax.Function)}
        if not whole:
            ((name, kernel),) = self._functions.items()
            return self._kernel(name, kernel, source)
        name = next((n for n in whole if n.endswith(RUN)), "main")
        function, half = whole[name], whole.get(name.removesuffix(RUN) + PREPARE)
        if half is None:
            return self._walk(
                function, [_random(p.ty, source) for p in function.params], self._near_empty
            )
        # Both halves take all weights, the second one what was prepared behind them.
        weights = [_random(p.ty, source) for p in half.params]
        calls, prepared = self._walk(half, weights, _empty)
        for call in calls:
            call()
        inputs = len(function.params) - len(weights) - len(prepared)
        given = [self._shared(_random, p.ty, source) for p in function.params[:inputs]]
        return self._walk(function, [*given, *weights, *prepared], self._near_empty)

    def _kernel(
        self, name: str, kernel: tirx.PrimFunc, source: np.random.Generator
    ) -> tuple[_Calls, list[Any]]:
        written: list[Any] = []
        tvm_ffi.structural_walk(kernel.body, (tirx.BufferStore, lambda s: written.append(s.buffer)))
        made = [any(p.same_as(buffer) for buffer in written) for p in kernel.params]
        tensors = [
            self._shared(_random, p.ty, source) if own or not place else _random(p.ty, source)
            for place, (p, own) in enumerate(zip(kernel.params, made))
        ]
        call = functools.partial(self._kernels[name], *tensors)
        return [call], [tensor for tensor, own in zip(tensors, made) if own]

    def _shared(self, make: Callable[..., Any], *given: Any) -> Any:
        """A tensor that all sets have in common, by the order of asking."""
        if self._place == len(self._near):
            self._near.append(make(*given))
        self._place += 1
        return self._near[self._place - 1]

    def _near_empty(self, ty: Any) -> Any:
        return self._shared(_empty, ty)

    def _walk(
        self, function: relax.Function, arguments: Sequence[Any], make: Callable[[Any], Any]
    ) -> tuple[_Calls, list[Any]]:
        """The calls of kernels that `function` makes, and its results; `make` makes tensors."""
        values: dict[relax.Var, Any] = dict(zip(function.params, arguments))
        calls: _Calls = []

        def value(node: Any) -> Any:
            if isinstance(node, relax.Var):
                return values[node]
            if isinstance(node, relax.Tuple):
                return [value(part) for part in node.fields]
            if isinstance(node, relax.TupleGetItem):
                return value(node.tuple_value)[node.index]
            if isinstance(node, GenericConst):
                return tvm.runtime.tensor(node.value.numpy())
            if not isinstance(node, relax.Call) or node.op.name != "relax.call_tir":
                raise TargetError(f"cannot try this out by itself: {str(node)[:80]}")
            results = [make(ty) for ty in node.ty_args]
            given = value(node.args[1])
            kernel = self._kernels[str(node.args[0].name_hint)]
            calls.append(functools.partial(kernel, *given, *results))
            return results if isinstance(node.ty, relax.TupleType) else results[0]

        for block in function.body.blocks:
            for binding in block.bindings:
                values[binding.var] = value(binding.value)
        found = value(function.body.body)
        return calls, found if isinstance(found, list) else [found]


def _shape(ty: Any) -> list[int]:
    if not all(isinstance(size, (int, tirx.IntImm)) for size in ty.shape):
        raise TargetError(f"cannot try out what has open sizes: {ty}")
    return [int(size) for size in ty.shape]


def _empty(ty: Any) -> Any:
    return tvm.runtime.empty(_shape(ty), str(ty.dtype))


def _random(ty: Any, source: np.random.Generator) -> Any:
    """Random floats and bytes; wider integers, which may be places, are zeros."""
    kind, shape = str(ty.dtype), _shape(ty)
    if kind in ("float32", "float64", "float16"):
        return tvm.runtime.tensor(source.standard_normal(shape, np.float32).astype(kind))
    if kind in ("int8", "uint8"):
        return tvm.runtime.tensor(source.integers(0, 100, shape).astype(kind))
    made = tvm.runtime.empty(shape, kind)
    made.copyfrom(np.zeros(shape, made.numpy().dtype))
    return made
