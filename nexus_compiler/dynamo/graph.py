"""One graph of AOTAutograd: from ATen to a function on PyTorch's tensors."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
import torch
from tvm import relax

from nexus_compiler.dynamo import views
from nexus_compiler.dynamo.record import CompiledGraph
from nexus_compiler.frontend.graph import CapturedGraph, Source
from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.importer import ROW, SEED, Importer
from nexus_compiler.frontend.torch.values import as_array, as_tensor, dtype_name
from nexus_compiler.ir.one_thread import one_thread
from nexus_compiler.pipeline import CompileOptions, RegionCount, compile
from nexus_compiler.store.counting import CountingStore
from nexus_compiler.store.local import LocalStore
from nexus_compiler.store.opening import default_store
from nexus_runtime.errors import CaptureError
from nexus_runtime.module import Module
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

if TYPE_CHECKING:
    from nexus_compiler.dynamo.backend import Options


def compile_graph(
    module: torch.fx.GraphModule, kind: str, options: Options
) -> tuple[Callable[..., list[Any]], CompiledGraph]:
    """Compile `module`; the function takes and returns what the graph does.

    Raises:
        UnsupportedOperator: it holds operators without a translation; all are listed.
        CaptureError: an input is neither a tensor nor a whole number.
    """
    started = time.perf_counter()
    trace = _Trace(module, kind)
    if not trace.tensors:  # nothing to compute: a graph that only hands inputs on
        call: Callable[..., list[Any]] = _Call(trace, None)
        return call, CompiledGraph.of(kind, module, time.perf_counter() - started, 0, 0)
    kept = default_store() if options.store is None else LocalStore(Path(options.store))
    store = CountingStore(kept)
    regions = RegionCount()
    settings = CompileOptions(store=store, told=regions)
    if options.jobs is not None:
        settings = dataclasses.replace(settings, jobs=options.jobs)
    artifact = compile(
        trace.captured(kind),
        targets=(options.target,),
        options=settings,
    )
    loaded = Module(artifact, options.target, num_threads=options.num_threads)
    seconds = time.perf_counter() - started
    entry = CompiledGraph.of(kind, module, seconds, store.built, store.reused)
    entry = dataclasses.replace(entry, new=tuple(regions.new), known=regions.known)
    return _Call(trace, loaded), entry


class _Trace:
    """What is known of a graph before it is compiled.

    Attributes:
        tensors: the graph's results that must be computed, each once.
        results: for each result ("tensor", place in `tensors`), ("input", place of a placeholder),
            ("view", (what it is of: one of these two, `View`)), ("size", expression) or
            ("constant", value).
        places: the positions of the tensors among the placeholders.
        symbols: for each symbol (placeholder, axis), or (placeholder, None) for a whole number.
        lone: symbols that are no dimension of any tensor: each needs an input of that length.
    """

    def __init__(self, module: torch.fx.GraphModule, kind: str) -> None:
        self._module = module
        self._backward = kind == "backward"
        self.placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.values = [sizes.plain(n.meta.get("val")) for n in self.placeholders]
        self.places = [i for i, v in enumerate(self.values) if isinstance(v, torch.Tensor)]
        self.symbols: dict[sympy.Symbol, tuple[int, int | None]] = {}
        self.lone: list[sympy.Symbol] = []
        self._find_symbols()
        (output,) = [n for n in module.graph.nodes if n.op == "output"]
        self.tensors: list[torch.fx.Node] = []
        self._returned_nodes = {n for n in output.args[0] if isinstance(n, torch.fx.Node)}
        self.results = [self._result(item) for item in output.args[0]]

    def _find_symbols(self) -> None:
        for place in self.places:
            for axis, size in enumerate(map(sizes.plain, self.values[place].shape)):
                if isinstance(size, sympy.Symbol):
                    self.symbols.setdefault(size, (place, axis))
        for place, value in enumerate(self.values):
            if isinstance(value, sympy.Symbol) and value not in self.symbols:
                self.symbols[value] = place, None
                self.lone.append(value)
            elif not isinstance(value, torch.Tensor | int | float | None | sympy.Basic):
                raise CaptureError(f"the graph's input {place} is a {type(value).__name__}")

    def _result(self, item: Any) -> tuple[str, Any]:
        if not isinstance(item, torch.fx.Node):
            return "constant", item
        if item in self.placeholders:
            return "input", self.placeholders.index(item)
        value = sizes.plain(item.meta.get("val"))
        if not isinstance(value, torch.Tensor):
            return ("size", value) if isinstance(value, sympy.Basic) else ("constant", value)
        return self._view(item) or self._tensor(item)

    def _tensor(self, node: torch.fx.Node) -> tuple[str, Any]:
        if node not in self.tensors:
            self.tensors.append(node)
        return "tensor", self.tensors.index(node)

    def _view(self, node: torch.fx.Node) -> tuple[str, Any] | None:
        """`node` as a view of an input or of another result, if it is one."""
        base = views.base_of(node)
        given = base in self.placeholders
        # What a forward pass saves, we may have laid out otherwise than PyTorch would have.
        if base is node or (given and self._backward):
            return None
        if not given and (base not in self._returned_nodes or not views.is_packed(base)):
            return None
        view = views.view_of(node, base)
        if view is None or not views.symbols(view) <= set(self.symbols):
            return None
        origin = ("input", self.placeholders.index(base)) if given else self._tensor(base)
        return "view", (origin, view)

    @one_thread
    def captured(self, kind: str) -> CapturedGraph:
        """The graph in Relax; its inputs are called as the placeholders are."""
        importer = Importer()
        pairs = [
            importer.variable(self.placeholders[i].name, self.values[i])
            for i in _plain_first(self.places, self.values)
        ]
        pairs.sort(key=lambda pair: [n.name for n in self.placeholders].index(pair[1].name))
        for symbol in self.lone:
            pairs.append(importer.length(f"length_{symbol.name}", symbol))
        given: dict[torch.fx.Node, Any] = dict(zip(self.placeholders, self.values))
        for place, (variable, _) in zip(self.places, pairs):
            given[self.placeholders[place]] = variable
        built = importer.build(
            self._module, given, [variable for variable, _ in pairs], [], self._returned
        )
        seeds = (TensorSpec(SEED, "uint32", ()), TensorSpec(ROW, "int64", ()))
        inputs = [spec for _, spec in pairs] + list(seeds if importer.seed else ())
        arrays = {name: array for name, (_, array) in importer.constants.items()}
        weights = tuple(TensorSpec(name, a.dtype.name, a.shape) for name, a in arrays.items())
        outputs = tuple(self._spec(importer, i) for i in range(len(self.tensors)))
        entry = FunctionSpec("main", tuple(inputs), outputs, tuple(arrays))
        digest = hashlib.sha256(self._module.code.encode()).hexdigest()
        source = Source("torch.compile", kind, digest)
        return CapturedGraph(built, Signature((entry,), weights), arrays, source)

    def _returned(self, returned: list[Any]) -> list[relax.Expr]:
        found: dict[int, Any] = {}
        for (what, place), value in zip(self.results, returned):
            if what == "tensor":
                found[place] = value
        return [found[place] for place in range(len(self.tensors))]

    def _spec(self, importer: Importer, index: int) -> TensorSpec:
        fake = self.tensors[index].meta["val"]
        shape = tuple(importer.dims.text(sizes.plain(size)) for size in fake.shape)
        return TensorSpec(f"output_{index}", dtype_name(fake.dtype), shape)


def _plain_first(places: list[int], values: list[Any]) -> list[int]:
    """Tensors whose dimensions are symbols before those with expressions over them."""

    def composed(place: int) -> bool:
        shape = map(sizes.plain, values[place].shape)
        return any(sizes.is_symbolic(s) and not isinstance(s, sympy.Symbol) for s in shape)

    return sorted(places, key=composed)


class _Call:
    """A compiled graph as a function of PyTorch's tensors, whose memory it shares."""

    def __init__(self, trace: _Trace, module: Module | None) -> None:
        self._trace = trace
        self._module = module
        inputs = module.main.inputs if module is not None else ()
        self._names = [spec.name for spec in inputs]
        self._random = SEED in self._names

    def __call__(self, *args: Any) -> list[Any]:
        found = list(self._run(args).values()) if self._module is not None else []
        return [self._pick(what, value, args, found) for what, value in self._trace.results]

    def _run(self, args: Any) -> dict[str, np.ndarray]:
        assert self._module is not None
        arrays = [as_array(args[place]) for place in self._trace.places]
        arrays += [np.zeros(self._size(s, args), np.bool_) for s in self._trace.lone]
        inputs = dict(zip(self._names, arrays))
        if self._random:
            # One draw a call from PyTorch's generator: torch.manual_seed makes runs repeat.
            inputs[SEED] = np.array(torch.randint(2**31, ()).item(), np.uint32)
            inputs[ROW] = np.array(0, np.int64)
        return self._module.run("main", inputs)

    def _size(self, symbol: sympy.Symbol, args: Any) -> int:
        place, axis = self._trace.symbols[symbol]
        return int(args[place]) if axis is None else args[place].shape[axis]

    def _pick(self, what: str, value: Any, args: Any, found: list[np.ndarray]) -> Any:
        if what == "tensor":
            return as_tensor(found[value])
        if what == "input":
            return args[value]
        if what == "view":
            (base, place), view = value
            return view.of(
                self._pick(base, place, args, found), lambda size: self._number(size, args)
            )
        return self._number(value, args) if what == "size" else value

    def _number(self, size: sizes.Size, args: Any) -> int:
        if isinstance(size, int):
            return size
        sizes_now = {s: sympy.Integer(self._size(s, args)) for s in size.free_symbols}
        return int(size.xreplace(sizes_now))
