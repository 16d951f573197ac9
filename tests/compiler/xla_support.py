"""Builds tiny Relax functions and runs them through the XLA room and through TVM's llvm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from machines import machine
from tvm import IRModule, relax

from nexus_compiler import targets
from nexus_compiler.codegen.door import room_for
from nexus_compiler.passes import base
from nexus_runtime.executors.jax_export import Executor, open_module
from nexus_runtime.signature import FunctionSpec, Signature

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """`make(*variables)` gives the result, an expression or a tuple of them.

    `expected(*arrays)` is the reference where TVM has no kernel (or a wrong one).
    """

    make: Make
    arrays: tuple[np.ndarray, ...]
    tolerance: float = 1e-5
    shapes: tuple[tuple[Any, ...], ...] = ()
    expected: Make | None = None


def case(
    make: Make,
    *arrays: np.ndarray,
    tol: float = 1e-5,
    shapes: Any = (),
    expected: Make | None = None,
) -> Case:
    return Case(make, arrays, tol, tuple(shapes), expected)


def floats(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype("float32")


def whole(*shape: int, high: int, low: int = 0, dtype: str = "int32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def bools(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


_builders: list[relax.BlockBuilder] = []


def emit(expression: Any) -> Any:
    """Bind within the function that is being made, for what needs the type of a part."""
    return _builders[-1].emit(expression)


def add_function(builder: relax.BlockBuilder, name: str, made: Case) -> None:
    """Add a function of one dataflow block; equal names in `shapes` are one symbolic dimension."""
    symbols: dict[str, Any] = {}

    def dim(value: Any) -> Any:
        if isinstance(value, str):
            return symbols.setdefault(value, tvm.tirx.Var(value, "int64"))
        return value

    shapes = made.shapes or [array.shape for array in made.arrays]
    parameters = [
        relax.Var(f"x{i}", relax.TensorType([dim(d) for d in shape], array.dtype.name))
        for i, (shape, array) in enumerate(zip(shapes, made.arrays))
    ]
    with builder.function(name, parameters):
        with builder.dataflow():
            _builders.append(builder)
            result = builder.emit(made.make(*parameters))
            _builders.pop()
            kind = result.ty
            if isinstance(kind, relax.TupleType):
                parts = [
                    builder.emit(relax.TupleGetItem(result, i)) for i in range(len(kind.fields))
                ]
            else:
                parts = [result]
            output = builder.emit_output(relax.Tuple(parts))
        builder.emit_func_output(output)


def module_of(cases: Mapping[str, Case]) -> IRModule:
    builder = relax.BlockBuilder()
    for name, made in cases.items():
        add_function(builder, name, made)
    return builder.get()


def signature_of(*names: str) -> Signature:
    return Signature(tuple(FunctionSpec(name, (), ()) for name in names))


def build(module: IRModule, *names: str, target: str = "xla-cpu") -> bytes:
    """The module file for `target`, by the whole way through the room."""
    spec = targets.load(target)
    room = room_for(spec)
    spec = room.resolve(spec)
    signature = signature_of(*names)
    plan = room.cut(base.run(module, room.graph_passes(spec)), signature, spec, {})
    return room.link(plan, {unit.name: room.build(unit, spec) for unit in plan.units}, spec)


def load(module: IRModule, *names: str, target: str = "xla-cpu") -> Executor:
    return open_module(build(module, *names, target=target), signature_of(*names), num_threads=None)


def tvm_runner(module: IRModule) -> Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]:
    program = machine(relax.build(module, "llvm"))

    def run(name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = program[name](*(tvm.runtime.tensor(array) for array in arrays))
        return [outputs[i].numpy() for i in range(len(outputs))]

    return run


def assert_equal(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], tol: float) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tol, atol=tol)


class Suite:
    """A table of cases. TVM builds them all at once, as most of its time is not per function."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self.cases = cases

    @functools.cached_property
    def reference(self) -> Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]:
        known = {name: made for name, made in self.cases.items() if made.expected is None}
        return tvm_runner(module_of(known))

    def run(self, name: str) -> list[np.ndarray]:
        made = self.cases[name]
        return load(module_of({name: made}), name).run(name, made.arrays)

    def check(self, name: str) -> None:
        made = self.cases[name]
        if made.expected is None:
            wanted = self.reference(name, made.arrays)
        else:
            found = made.expected(*made.arrays)
            wanted = list(found) if isinstance(found, tuple) else [found]
        assert_equal(self.run(name), wanted, made.tolerance)
