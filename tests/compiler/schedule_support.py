"""Graphs of a few operators for the tests of schedules, and a walk that finds stray accesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tvm import relax, tirx
from tvm.ir import Op
from tvm.s_tir.stmt import SBlockRealize

import nexus_compiler
import nexus_runtime
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir import canonical
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.legalize import Legalize
from nexus_compiler.store.local import LocalStore
from nexus_runtime.module import Module
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

TARGETS = ("native", "x86-64-v3", "x86-64-v2")
MACHINES = (
    {"vector_bits": 512, "vector_registers": 32},
    {"vector_bits": 128, "vector_registers": 16},
)
Shape = tuple[int | str, ...]
Graph = Callable[..., relax.Expr]


def graph(shapes: Sequence[Shape], build: Graph) -> CapturedGraph:
    """One function of inputs `x0`, `x1`, ...; a dimension that is a name is symbolic."""
    block = relax.BlockBuilder()
    sizes: dict[str, tirx.Var] = {}

    def size(dim: int | str) -> Any:
        return dim if isinstance(dim, int) else sizes.setdefault(dim, tirx.Var(dim, "int64"))

    inputs = [
        relax.Var(f"x{i}", relax.TensorType(tuple(map(size, shape)), "float32"))
        for i, shape in enumerate(shapes)
    ]
    with block.function("main", inputs):
        with block.dataflow():
            result = block.emit(build(*inputs))
            output = block.emit_output(relax.Tuple([result]))
        block.emit_func_output(output)
    names = {variable: name for name, variable in sizes.items()}
    dims = [names.get(d) or str(d).replace("T.int64", "").strip("()") for d in result.ty.shape]
    found = tuple(int(d) if d.isdigit() else d for d in dims)
    outputs = (TensorSpec("y", str(result.ty.dtype), found),)
    given = tuple(TensorSpec(f"x{i}", "float32", tuple(s)) for i, s in enumerate(shapes))
    return CapturedGraph(
        block.get(), Signature((FunctionSpec("main", given, outputs, ()),), ()), {}
    )


def scheduled(shapes: Sequence[Shape], build: Graph, **options: int) -> list[tirx.PrimFunc]:
    """The kernels of a graph after scheduling."""
    steps = (Legalize(), Fuse(), Schedule(**options))
    functions = base.run(graph(shapes, build).module, steps).functions.values()
    return [function for function in functions if isinstance(function, tirx.PrimFunc)]


_LOADED: dict[str, list[Module]] = {}


def modules(root: Path, captured: CapturedGraph) -> list[Module]:
    """A module for each target that this machine runs; of equal graphs the same ones."""
    key = canonical.digest(captured.module["main"])
    if key not in _LOADED:
        _LOADED[key] = _built(root, captured)
    return _LOADED[key]


def _built(root: Path, captured: CapturedGraph) -> list[Module]:
    options = nexus_compiler.CompileOptions(store=LocalStore(root))
    artifact = nexus_compiler.compile(captured, targets=TARGETS, options=options)
    loaded: list[Module] = []
    for target in TARGETS:
        try:
            loaded.append(nexus_runtime.load(artifact, target=target))
        except nexus_runtime.DeviceError:
            continue
    return loaded


def random(*shapes: Sequence[int]) -> list[np.ndarray]:
    source = np.random.default_rng(0)
    return [source.standard_normal(shape).astype(np.float32) for shape in shapes]


def check(root: Path, shapes: Sequence[Shape], build: Graph, reference: Any, **sizes: int) -> None:
    """Compare all targets with `reference`, a function of arrays, at symbolic sizes of `sizes`."""
    for options in MACHINES:
        for function in scheduled(shapes, build, **options):
            walk(function, sizes)
    compare(modules(root, graph(shapes, build)), shapes, reference, sizes)


def compare(
    loaded: Sequence[Module], shapes: Sequence[Shape], reference: Any, sizes: dict[str, int]
) -> None:
    arrays = random(*[[sizes.get(d, d) if isinstance(d, str) else d for d in s] for s in shapes])
    expected = np.asarray(reference(*arrays))
    for module in loaded:
        found = module(*arrays)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4, err_msg=module.target)


def by_torch(function: Callable[..., torch.Tensor]) -> Callable[..., np.ndarray]:
    return lambda *arrays: function(*map(torch.from_numpy, arrays)).numpy()


_INFIX = {"Add": "+", "Sub": "-", "Mul": "*", "FloorDiv": "//", "FloorMod": "%"}
_INFIX |= {"LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!="}
_INFIX |= {"And": "and", "Or": "or"}


def walk(function: tirx.PrimFunc, sizes: dict[str, int]) -> None:
    """Run the loops of a kernel and check every subscript, without computing a value.

    LLVM and the allocator forgive most stray accesses; this does not. Kernels that no family knows
    are left out: their blocks still have axes.
    """
    if "T.axis." in function.script():
        return
    source = _Source(function, sizes)
    source.statement(function.body, 0)
    scope: dict[str, Any] = {"stray": _stray, "counts": {}}
    # In a function, whose variables are quicker than those of a module.
    exec("\n".join(["def walked():", *source.prologue, *source.lines, "walked()"]), scope)
    for name, counts in scope["counts"].items():
        assert counts.count(1) == len(counts), f"{name} is not written exactly once everywhere"


def _stray(name: str, shape: tuple[int, ...], at: tuple[int, ...]) -> None:
    raise AssertionError(f"{name}{list(at)} of {shape}")


def _name(variable: tirx.Var) -> str:
    return f"v{hash(variable) & 0xFFFFFFFFFFFF}"


def _place(at: Sequence[str], shape: Sequence[str]) -> str:
    """The number of an element in memory."""
    place = "0"
    for index, extent in zip(at, shape, strict=True):
        place = f"({place} * {extent} + {index})"
    return place


class _Source:
    """Python text of the loops; a value that depends on data is "None".

    Millions of accesses run in it: it calls nothing but where one is stray.
    """

    def __init__(self, function: tirx.PrimFunc, sizes: dict[str, int]) -> None:
        self.prologue: list[str] = []
        self.lines: list[str] = []
        self._sizes = sizes
        self._parameters = {_name(parameter) for parameter in function.params}
        self._counted: set[str] = set()

    def text(self, node: Any) -> str:
        kind = type(node).__name__
        if kind == "IntImm":
            return str(int(node))
        if kind == "Var":
            return str(self._sizes.get(node.name, _name(node)))
        if kind == "Cast":
            return self.text(node.value)
        if kind == "Select":
            parts = [self.text(p) for p in (node.true_value, node.condition, node.false_value)]
            return "None" if "None" in parts else f"({parts[0]} if {parts[1]} else {parts[2]})"
        if kind in ("Min", "Max", *_INFIX):
            a, b = self.text(node.a), self.text(node.b)
            if "None" in (a, b):
                return "None"
            return (
                f"{kind.lower()}({a}, {b})"
                if kind in ("Min", "Max")
                else f"({a} {_INFIX[kind]} {b})"
            )
        return "None"

    def add(self, depth: int, line: str) -> None:
        self.lines.append(" " * (depth + 1) + line)

    def statement(self, node: Any, depth: int) -> None:
        kind = type(node).__name__
        if isinstance(node, SBlockRealize):
            self.statement(node.block.body, depth)
        elif kind == "SeqStmt":
            for part in node.seq:
                self.statement(part, depth)
        elif kind == "For":
            self.add(depth, f"for {_name(node.loop_var)} in range({self.text(node.extent)}):")
            self.add(depth + 1, "pass")
            self.statement(node.body, depth + 1)
        elif kind == "IfThenElse":
            self.branch(node.condition, node.then_case, node.else_case, depth, self.statement)
        elif kind == "Bind":
            self.value(node.value, depth)
        else:
            assert kind == "BufferStore", kind
            self.value(node.value, depth)
            self.access(node.buffer, node.indices, depth, write=True)

    def branch(self, condition: Any, then: Any, otherwise: Any, depth: int, visit: Any) -> None:
        self.value(condition, depth)
        text = self.text(condition)
        for part, test in ((then, text), (otherwise, f"not {text}")):
            if part is not None:
                self.add(depth, "if True:" if text == "None" else f"if {test}:")
                self.add(depth + 1, "pass")
                visit(part, depth + 1)

    def value(self, node: Any, depth: int) -> None:
        kind = type(node).__name__
        if kind == "TensorLoad":
            self.access(node.source, node.indices, depth, write=False)
        elif kind == "Call" and isinstance(node.op, Op) and node.op.name == "prim.if_then_else":
            self.branch(*node.args, depth, self.value)
        elif kind == "Call":
            for argument in node.args:
                self.value(argument, depth)
        else:
            for field in ("a", "b", "value", "condition", "true_value", "false_value"):
                child = getattr(node, field, None)
                if child is not None and hasattr(child, "ty"):
                    self.value(child, depth)

    def access(self, buffer: Any, indices: Any, depth: int, *, write: bool) -> None:
        if len(indices) and type(indices[-1]).__name__ == "Ramp":
            self.vector(buffer, indices, depth, write=write)
            return
        for index in indices:
            self.value(index, depth)
        name = _name(buffer)
        shape = [self.text(extent) for extent in buffer.shape]
        at = [self.text(index) for index in indices]
        inside = [f"0 <= {i} < {n}" for i, n in zip(at, shape, strict=True) if i != "None"]
        if inside:
            said = f"({', '.join(shape)},), ({', '.join(at)},)"
            self.add(depth, f"if not ({' and '.join(inside)}): stray({name!r}, {said})")
        if write and "None" not in at and name in self._parameters:
            self.count(name, shape)
            self.add(depth, f"{name}[{_place(at, shape)}] += 1")

    def vector(self, buffer: Any, indices: Any, depth: int, *, write: bool) -> None:
        """Neighbours in memory; where axes count as one, they may go on in the next line."""
        *lead, last = indices
        assert int(last.stride) == 1
        lanes, name = int(last.lanes), _name(buffer)
        shape = [self.text(extent) for extent in buffer.shape]
        at = [self.text(index) for index in (*lead, last.base)]
        inside = [f"0 <= {i} < {n}" for i, n in zip(at, shape, strict=True)]
        inside.append(f"{_place(at, shape)} + {lanes} <= {' * '.join(shape)}")
        said = f"({', '.join(shape)},), ({', '.join(at)},)"
        self.add(depth, f"if not ({' and '.join(inside)}): stray({name!r}, {said})")
        if write and name in self._parameters:
            self.count(name, shape)
            self.add(depth, f"for lane in range({lanes}): {name}[{_place(at, shape)} + lane] += 1")

    def count(self, name: str, shape: list[str]) -> None:
        """Begin to count how often each element is written."""
        if name not in self._counted:
            self._counted.add(name)
            self.prologue.append(
                f" {name} = counts[{name!r}] = [0] * ({' * '.join(['1', *shape])})"
            )
