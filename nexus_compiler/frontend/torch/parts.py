"""Equal layers of a model are traced once, and unchanged ones not again in later captures.

While a model is exported, this file sees the calls of the layers in its containers. The first
layer of its kind is traced between two borders, and its operators are cut out of the finished
graph as a `Part`. Further layers of equal identity that are called alike become one operator,
`nexus::part`; the importer puts the part's operators in its place, on that layer's weights. What
comes out is the same as if all had been traced.

Traced with the model around them, every time, are layers that reach over their borders: that
write to inputs, buffers or anything else, return views of these, or read tensors that are neither
inputs nor weights of theirs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from nexus_compiler.frontend.torch import cutting
from nexus_compiler.frontend.torch.identity import Identities
from nexus_compiler.frontend.torch.layer_calls import Bundle, arguments, described, share_memory
from nexus_compiler.frontend.torch.registry import op

if TYPE_CHECKING:
    from nexus_compiler.frontend.torch.node import Node

_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)
_LIBRARY = torch.library.Library("nexus", "FRAGMENT")
_LIBRARY.define("border(Tensor[] values, str key, bool enters) -> Tensor[]")
_LIBRARY.define("part(Tensor[] values, str key, str path) -> Tensor[]")


@dataclass(frozen=True)
class Kind:
    """How layers of one key are called, and what they return.

    Attributes:
        path: name of the layer that was traced.
        made: what it returns.
        symbolic: whether its sizes are symbols, which mean nothing in another capture.
    """

    path: str
    made: Bundle
    symbolic: bool


@dataclass(frozen=True)
class Part:
    """A layer that was traced: how it is called, and its graph."""

    kind: Kind
    graph: cutting.Cut


@dataclass
class Memory:
    """Parts of earlier captures by key, the last used ones; None is a layer that is no part."""

    most: int = 256
    _parts: OrderedDict[str, Part | None] = field(default_factory=OrderedDict[str, Part | None])

    def __contains__(self, key: str) -> bool:
        return key in self._parts

    def get(self, key: str) -> Part | None:
        """The part of this key, which is used now."""
        if key in self._parts:
            self._parts.move_to_end(key)
        return self._parts.get(key)

    def put(self, key: str, part: Part | None) -> None:
        """Remember it."""
        self._parts[key] = part
        while len(self._parts) > self.most:
            self._parts.popitem(last=False)


class Parts:
    """The layers of one capture.

    Attributes:
        found: the parts that the graph has operators of, by key.
        traced: names of the layers that were traced as parts.
        names: the first name of each weight, by all that it has.
    """

    def __init__(self, model: torch.nn.Module, memory: Memory) -> None:
        self.found: dict[str, Part] = {}
        self.traced: list[str] = []
        self.names = _first_names(model)
        self._model = model
        self._memory = memory
        self._identities = Identities()
        self._kinds: dict[str, Kind] = {}
        self._reused: set[str] = set()
        self._whole: set[str] = set()
        self._wrong = False

    def export(self, export: Callable[[], Any]) -> Any:
        """What `export` makes of the model; it is called again where a layer was taken wrongly."""
        while True:
            self._kinds.clear()
            self.found.clear()
            self._reused.clear()
            self._wrong = False
            with self._watched():
                program = export()
            self._collect(program)
            if not self._wrong:
                self.traced = [kind.path for kind in self._kinds.values()]
                return program

    @contextlib.contextmanager
    def _watched(self) -> Generator[None]:
        layers = list(_layers(self._model))
        _ACTIVE.append(self)
        try:
            for path, layer in layers:
                vars(layer)["forward"] = _Watched(self, path, layer)
            yield
        finally:
            for _, layer in layers:
                vars(layer).pop("forward", None)
            _ACTIVE.pop()

    # While the model is traced
    def call(self, watched: _Watched, args: Any, kwargs: Any) -> Any:
        """The layer's result: by its own code, or as an operator."""
        call = arguments(args, kwargs)
        key = None if call is None else self._key(watched.layer, call)
        if call is None or key is None or key in self._whole:
            return watched.original(*args, **kwargs)
        part = self._memory.get(key)
        if part is None and key in self._memory:
            return watched.original(*args, **kwargs)
        if part is None and key not in self._kinds:
            return self._trace(watched, call, key)
        if part is not None:
            self.found[key] = part
        self._reused.add(key)
        tensors = torch.ops.nexus.part(call.tensors, key, watched.path)
        return self.kind(key).made.on(tensors)

    def kind(self, key: str) -> Kind:
        """What is known of the layers of a key."""
        return self.found[key].kind if key in self.found else self._kinds[key]

    def uses(self, graph: torch.fx.Graph) -> Iterator[tuple[str, torch.fx.Node]]:
        """The weights of the layers that parts of `graph` stand for, with their placeholders."""
        for node in graph.nodes:
            if node.target is torch.ops.nexus.part.default:
                _, key, path = node.args
                for name, placeholder in self.found[key].graph.weights():
                    yield self.names[f"{path}.{name}"], placeholder

    def _key(self, layer: torch.nn.Module, call: Bundle) -> str | None:
        identity = _identity(self._identities, layer)
        if identity is None:
            return None
        state = hashlib.sha256(identity)
        state.update(repr((described(call), _settings())).encode())
        return state.hexdigest()

    def _trace(self, watched: _Watched, call: Bundle, key: str) -> Any:
        layer = watched.layer
        inputs = torch.ops.nexus.border(call.tensors, key, True)
        args, kwargs = call.on(inputs)
        held = [*layer.parameters(), *layer.buffers()]
        given_as, held_as = _versions(inputs), _versions(held)
        made = watched.original(*args, **kwargs)
        results = Bundle.of(made)
        if (
            not call.holds((args, kwargs), inputs)
            or given_as != _versions(inputs)
            or share_memory(results.tensors, inputs)
        ):
            self._refuse(key)
            self._wrong = True  # what it wrote to, or shows, is a copy
            return made
        if (
            held_as != _versions(held)
            or not results.is_plain()
            or share_memory(results.tensors, held)
            or key != self._key(layer, call)
        ):
            self._refuse(key)
            return made
        symbolic = call.has_symbols() or results.has_symbols()
        self._kinds[key] = Kind(watched.path, results, symbolic)
        return results.on(torch.ops.nexus.border(results.tensors, key, False))

    def _refuse(self, key: str) -> None:
        self._whole.add(key)
        self._memory.put(key, None)

    # When the graph is there
    def _collect(self, program: Any) -> None:
        for key, kind in self._kinds.items():
            own = {
                self.names[f"{kind.path}.{name}"]: name
                for name, _ in _weights(self._model.get_submodule(kind.path))
            }
            cut = cutting.cut(program, key, self.names, own)
            if cut is None:
                self._refuse(key)
                self._wrong |= key in self._reused
                continue
            self.found[key] = Part(kind, cut)
            if not kind.symbolic:
                self._memory.put(key, self.found[key])


_ACTIVE: list[Parts] = []
"""The captures that are under way, the innermost last."""


@dataclass(frozen=True)
class _Watched:
    """Stands in the place of a layer's `forward` while the model is traced."""

    parts: Parts
    path: str
    layer: torch.nn.Module

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer itself does."""
        return type(self.layer).forward(self.layer, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.parts.call(self, args, kwargs)


@torch.library.register_fake("nexus::border", lib=_LIBRARY)
def _fake_border(values: Sequence[torch.Tensor], key: str, enters: bool) -> list[torch.Tensor]:
    del key, enters
    return [_like(value) for value in values]


@torch.library.register_fake("nexus::part", lib=_LIBRARY)
def _fake_part(values: Sequence[torch.Tensor], key: str, path: str) -> list[torch.Tensor]:
    del values, path
    return [_like(value) for value in _ACTIVE[-1].kind(key).made.tensors]


@op("nexus::border")
def border(node: Node) -> list[Any]:
    """Nothing happens at a border."""
    return node["values"]


@op("nexus::part")
def part(node: Node) -> list[Any]:
    """The operators of the layer, on this one's inputs and weights."""
    return node.importer.play(node["key"], node["path"], node["values"])


def _like(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The outermost layers in containers that have layers of their own, each once."""
    met: set[torch.nn.Module] = {model}

    def within(module: torch.nn.Module, path: str) -> Iterator[tuple[str, torch.nn.Module]]:
        for name, child in module.named_children():
            if child in met:
                continue
            met.add(child)
            own = f"{path}.{name}" if path else name
            plain = "forward" not in vars(child) and not isinstance(child, torch.jit.ScriptModule)
            if isinstance(module, _CONTAINERS) and plain and any(True for _ in child.children()):
                yield own, child
            else:
                yield from within(child, own)

    return within(model, "")


def _identity(identities: Identities, layer: torch.nn.Module) -> bytes | None:
    """The identity of a layer without what stands in the place of its `forward`."""
    watched = vars(layer).pop("forward")
    try:
        return identities.of(layer)
    finally:
        vars(layer)["forward"] = watched


def _versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    """How often each tensor was written to."""
    return [tensor._version for tensor in tensors]


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _first_names(model: torch.nn.Module) -> Mapping[str, str]:
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in _weights(model)}


def _settings() -> Any:
    """Modes of PyTorch that change what is traced."""
    return (
        torch.get_default_dtype(),
        torch.is_inference_mode_enabled(),
        [(kind, torch.is_autocast_enabled(kind)) for kind in ("cpu", "cuda")],
        [torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")],
    )
