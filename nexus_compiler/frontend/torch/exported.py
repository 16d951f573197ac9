"""Capture of whole models through `torch.export`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind
from tvm import relax

from nexus_compiler.frontend.graph import CapturedGraph, Source
from nexus_compiler.frontend.locations import innermost
from nexus_compiler.frontend.torch import decompositions, guards, naming, recurrent, sizes
from nexus_compiler.frontend.torch.importer import ROW, SEED, Importer
from nexus_compiler.frontend.torch.parts import Memory, Parts
from nexus_compiler.frontend.torch.values import as_array, dtype_name
from nexus_runtime.errors import CaptureError, NexusError
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

_TORCH, _HERE = Path(torch.__file__).parent, Path(__file__).parent
_STATE = {OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION}


def capture(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    memory: Memory | None = None,
) -> CapturedGraph:
    """Turn a PyTorch module into Relax.

    Parameters and buffers keep their names. What the model changes (the statistics of batch norm,
    a cache in a buffer) comes back as further outputs, named in `FunctionSpec.updates`. A model in
    training mode with dropout has two inputs more: `seed` (uint32, another for each call) and
    `row` (int64, the number of the first sample in the whole batch; 0 unless a batch is split).

    Args:
        model: a module, in the mode that it is to be captured in, or what `torch.export` made.
        args: example inputs; shapes and dtypes count, and what Python does with them.
        kwargs: example inputs by name.
        dynamic_shapes: as for `torch.export.export`; the names of its `Dim`s are kept.
        memory: keeps layers for further captures, which do not trace them again (see `parts`).

    Raises:
        CaptureError: `torch.export` cannot trace the model.
        UnsupportedOperator: it holds operators that have no translation; all are listed.
    """
    positional, named = tuple(args), dict(kwargs or {})
    if isinstance(model, torch.export.ExportedProgram):
        return _Capture(_decomposed(model), dynamic_shapes, None).graph("ExportedProgram")
    parts = Parts(model, memory or Memory())
    program = parts.export(lambda: _decomposed(_export(model, positional, named, dynamic_shapes)))
    return _Capture(program, dynamic_shapes, parts).graph(type(model).__name__)


def _decomposed(program: Any) -> Any:
    with _traceable():
        return program.run_decompositions(decompositions.table())


def _export(model: Any, args: Any, kwargs: Any, dynamic_shapes: Any) -> Any:
    try:
        with _traceable(), recurrent.as_loops():
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
    except NexusError:
        raise
    except Exception as error:  # torch.export lets everything through that tracing can raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cures = [place for place, line in enumerate(lines) if "Suggested fixes" in line]
        cure = " ".join(line.strip() for line in lines[cures[0] + 1 :]) if cures else ""
        raise CaptureError(
            f"torch.export cannot trace {type(model).__name__}: {lines[0]}",
            hint=cure or "run torch.export.export on it for the whole story",
        ) from error


@contextlib.contextmanager
def _traceable() -> Generator[None]:
    """Operators in their parts, and not as the kernels that PyTorch has for this machine."""
    fast = torch.backends.mha.get_fastpath_enabled()
    # `torch.backends.mkldnn.flags` would warn about its own use of an old interface.
    library = torch._C._get_mkldnn_enabled()  # pyright: ignore
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # pyright: ignore
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Tracing warns of PyTorch's own old interfaces, and that RNNs rebuild their lists.
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(library)  # pyright: ignore


class _Capture:
    """One exported program on its way to Relax."""

    def __init__(self, program: Any, dynamic_shapes: Any, parts: Parts | None) -> None:
        self._program = program
        self._importer = Importer()
        self._importer.parts = self._parts = parts
        self._inputs: list[tuple[relax.Var, TensorSpec]] = []
        self._weights: list[tuple[relax.Var, TensorSpec]] = []
        self._given: dict[torch.fx.Node, Any] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._tied: dict[Any, str] = {}
        self._locations: dict[str, str] = {}
        naming.name_dimensions(program, dynamic_shapes, self._importer.dims)

    def graph(self, name: str) -> CapturedGraph:
        """The captured graph of the model called `name`."""
        self._placeholders()
        importer, program = self._importer, self._program
        # Before the graph: it makes sizes known that follow from data.
        conditions = guards.of_program(program, importer.dims)
        for weight, node in self._parts.uses(program.graph) if self._parts else ():
            self._locate(weight, node)
        built = importer.build(
            program.graph_module,
            self._given,
            [variable for variable, _ in self._inputs],
            [variable for variable, _ in self._weights],
            self._results,
        )
        specs, updates = self._outputs()
        seeds = (TensorSpec(SEED, "uint32", ()), TensorSpec(ROW, "int64", ()))
        inputs = [spec for _, spec in self._inputs] + list(seeds if importer.seed else ())
        weights = [spec for _, spec in self._weights]
        for constant, (_, array) in importer.constants.items():
            weights.append(TensorSpec(constant, array.dtype.name, array.shape))
            self._arrays[constant] = array
        names = tuple(spec.name for spec in weights)
        entry = FunctionSpec("main", tuple(inputs), tuple(specs), names, updates, conditions)
        signature = Signature((entry,), tuple(weights))
        importer.trace.update(
            repr([(one.dtype, one.shape) for one in (*inputs, *weights)]).encode()
        )
        source = Source("torch", name, importer.trace.hexdigest())
        return CapturedGraph(built, signature, self._arrays, source, locations=self._locations)

    # Inputs
    def _placeholders(self) -> None:
        nodes = [n for n in self._program.graph.nodes if n.op == "placeholder"]
        described = list(zip(nodes, self._program.graph_signature.input_specs))
        names = naming.input_names(self._program)
        # User inputs first: their dimensions are the symbols that all else is written in.
        for node, spec in described:
            fake = node.meta.get("val")
            if spec.kind == InputKind.USER_INPUT and isinstance(fake, torch.Tensor):
                self._importer.dims.bind(map(sizes.plain, fake.shape))
        for node, spec in described:
            if spec.kind == InputKind.USER_INPUT:
                self._user_input(node, names[node.name])
        for node, spec in described:
            if spec.kind in {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}:
                self._weight(node, spec.target, tied=spec.kind == InputKind.PARAMETER)
                if self._parts:
                    first = self._parts.names.get(spec.target, spec.target)
                    self._importer.weights[first] = self._given[node]
            elif spec.kind != InputKind.USER_INPUT:
                raise CaptureError(f"input '{node.name}' is a {spec.kind.name.lower()}")

    def _user_input(self, node: torch.fx.Node, name: str) -> None:
        fake = node.meta.get("val")
        if isinstance(fake, torch.Tensor):
            pair = self._importer.variable(name, fake)
            self._given[node] = pair[0]
            self._inputs.append(pair)
        elif fake is None or isinstance(fake, int | float | bool | str):
            self._given[node] = fake  # a constant of the trace
        else:
            raise CaptureError(
                f"input '{name}' is a number that may differ from call to call",
                hint="pass it as a tensor, or take it out of dynamic_shapes",
            )

    def _weight(self, node: torch.fx.Node, target: str, *, tied: bool) -> None:
        value = self._program.state_dict.get(target)
        if value is None:
            value = self._program.constants[target]
        if tied and value.numel():
            # One parameter under two names stays one: under the first.
            place = (value.data_ptr(), value.dtype, value.shape, value.stride())
            target = self._tied.setdefault(place, target)
        self._locate(target, node)
        if target in self._arrays:
            self._given[node] = next(v for v, s in self._weights if s.name == target)
            return
        pair = self._importer.variable(target, value)
        self._given[node] = pair[0]
        self._weights.append(pair)
        self._arrays[target] = np.array(as_array(value), order="C")

    def _locate(self, weight: str, node: torch.fx.Node) -> None:
        for user in node.users:
            if where := innermost(user.meta.get("stack_trace") or "", (_TORCH, _HERE)):
                self._locations.setdefault(weight, where)

    # Outputs
    def _order(self) -> list[int]:
        """Positions in what the graph returns: the user's tensors, then what was changed."""
        listed = self._program.graph_signature.output_specs
        nodes = naming.returned(self._program)
        kept = [i for i, node in enumerate(nodes) if isinstance(node, torch.fx.Node)]
        return sorted(kept, key=lambda i: listed[i].kind != OutputKind.USER_OUTPUT)

    def _results(self, returned: list[Any]) -> list[relax.Expr]:
        """The tensors that the function returns; sizes become scalars."""
        importer = self._importer
        return [
            value
            if isinstance(value, relax.Expr)
            else importer.dims.scalar(value, "int64", importer.emit)
            for value in (returned[position] for position in self._order())
        ]

    def _outputs(self) -> tuple[list[TensorSpec], dict[str, str]]:
        names = naming.output_names(self._program)
        nodes = naming.returned(self._program)
        specs: list[TensorSpec] = []
        updates: dict[str, str] = {}
        for position in self._order():
            described = self._program.graph_signature.output_specs[position]
            if described.kind == OutputKind.USER_OUTPUT:
                name = next(names)
            elif described.kind in {*_STATE, OutputKind.USER_INPUT_MUTATION}:
                name = f"update:{described.target}"
            else:
                raise CaptureError(f"the program returns a {described.kind.name.lower()}")
            if described.kind in _STATE:
                updates[name] = described.target
            specs.append(self._spec(name, nodes[position].meta["val"]))
        return specs, updates

    def _spec(self, name: str, fake: Any) -> TensorSpec:
        if not isinstance(fake, torch.Tensor):
            return TensorSpec(name, "int64", ())
        shape = tuple(self._importer.dims.text(sizes.plain(size)) for size in fake.shape)
        return TensorSpec(name, dtype_name(fake.dtype), shape)
