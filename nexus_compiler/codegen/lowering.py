"""From regions to kernels, through the store, and back to one program.

A region's kernels follow from its canonical form, the passes and the target, so that they are kept
under the fingerprint of these. A region that changed and lowers to kernels that were there before
has nothing built: objects are kept by what the kernel is (early cutoff).
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar
from tvm.s_tir.stmt import SBlockRealize

from nexus_compiler.codegen import inline
from nexus_compiler.codegen.door import Room
from nexus_compiler.codegen.kernels import Kernel, named, rename, shared
from nexus_compiler.ir import serial
from nexus_compiler.ir.calls import callees, operators
from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.ir.region import INPUTS, Region
from nexus_compiler.passes import base
from nexus_compiler.passes.regions import Outlined
from nexus_compiler.store.door import KERNELS, REGIONS, Store
from nexus_compiler.targets import TargetSpec
from nexus_runtime.work import Kernel as Work


@dataclass(frozen=True, eq=False)
class Lowered:
    """A region as calls of kernels: a function, and these by name."""

    function: relax.Function
    kernels: Mapping[str, Kernel]


class _Entry(msgspec.Struct, frozen=True):
    """What the store has of a region: TVM's JSON, and kernels' digests and descriptions by name."""

    module: str
    kernels: dict[str, tuple[str, Work]]


@dataclass(eq=False)
class Lowering:
    """Lowers for one target; the last `most` that it lowered stay in memory. Safe for threads."""

    room: Room
    target: TargetSpec
    most: int = 8192
    _lowered: dict[str, Lowered] = field(default_factory=dict[str, Lowered])
    _variables: dict[str, GlobalVar] = field(default_factory=dict[str, GlobalVar])
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @functools.cached_property
    def passes(self) -> Sequence[base.Pass]:
        """The room's passes over one region."""
        return self.room.region_passes(self.target)

    @functools.cached_property
    def factors(self) -> tuple[Factor, ...]:
        """Everything that a region's kernels follow from, but for the region."""
        passes = base.factors(self.passes)
        sources = (("compiler", compiler_digest()),)
        return (*self.room.versions, *self.target.factors(), *passes, *sources)

    def fingerprint(self, region: Region) -> Fingerprint:
        """The key of the kernels of `region`."""
        return Fingerprint((("region", region.digest), *self.factors))

    def known(self, region: Region, store: Store) -> Lowered | None:
        """The kernels of `region`, if they were made before; builds nothing."""
        fingerprint = self.fingerprint(region)
        with self._lock:
            if (found := self._lowered.pop(fingerprint.digest, None)) is not None:
                return self._keep(fingerprint, found)
            payload = store.get(REGIONS, fingerprint)
            if payload is None or (entry := _decode(payload)) is None:
                return None
            return self._keep(fingerprint, self._from_entry(entry, region, store))

    def region(self, region: Region, store: Store, hooks: Sequence[base.Hook] = ()) -> Lowered:
        """The kernels of `region`, from memory, from the store or by running the passes.

        They always run where there are `hooks`: whoever has any wants to see them.
        """
        with self._lock:
            if not hooks and (found := self.known(region, store)) is not None:
                return found
            made = self._run(region, hooks)
            fingerprint = self.fingerprint(region)
            store.put(REGIONS, fingerprint, _encode(made, region))
            for kernel in made.kernels.values():
                store.put(KERNELS, _kernel_key(kernel.content), _to_json(kernel.load()))
            light = {
                name: self._light(kernel, region, store) for name, kernel in made.kernels.items()
            }
            self._keep(fingerprint, replace(made, kernels=light))
            return made

    def program(
        self,
        outlined: Outlined,
        store: Store,
        hooks: Sequence[base.Hook] = (),
        each: Callable[[Kernel], None] = lambda kernel: None,
    ) -> tuple[IRModule, dict[str, Kernel]]:
        """The whole module as calls of kernels, and the kernels by name.

        Kernels stand in the module with their parameters alone.

        Args:
            outlined: the graph.
            store: where kernels are looked for and kept.
            hooks: called after every pass that runs.
            each: told every kernel as soon as it is known.
        """
        functions: dict[GlobalVar, tvm.ir.BaseFunc] = {}
        kernels: dict[str, Kernel] = {}

        def take(found: Mapping[str, Kernel]) -> None:
            for name, kernel in found.items():
                if name not in kernels:
                    kernels[name] = kernel
                    each(kernel)

        with self._lock:
            bodies: dict[GlobalVar, relax.Function] = {}
            for region in outlined.regions.values():
                lowered = self.region(region, store, hooks)
                take(lowered.kernels)
                bodies[region.variable] = lowered.function
            rest, found = self._rest(outlined, hooks)
            take(found)
            for variable, function in rest.functions.items():
                functions[variable] = function
            for name, kernel in kernels.items():
                functions[self._variables[name]] = kernel.head
        module = IRModule(functions, attrs=outlined.module.attrs)
        return inline.regions(module, bodies), kernels

    def _run(self, region: Region, hooks: Sequence[base.Hook]) -> Lowered:
        name = region.variable.name_hint
        function = region.function.with_attr("global_symbol", name)
        module = base.run(IRModule({region.variable: function, **region.parts}), self.passes, hooks)
        module, kernels = named(inline.halves(module), self._variables, self.room.describe)
        (function,) = (f for f in module.functions.values() if isinstance(f, relax.Function))
        return Lowered(_private(function), kernels)

    def _rest(
        self, outlined: Outlined, hooks: Sequence[base.Hook]
    ) -> tuple[IRModule, dict[str, Kernel]]:
        """The functions around the regions; what is in no region is lowered here, every time."""
        module = outlined.module
        busy: dict[GlobalVar, Any] = {}
        plain: dict[GlobalVar, Any] = {}
        parts = {v for v, f in module.functions.items() if "Primitive" in (f.attrs or {})}
        for variable, function in module.functions.items():
            if not isinstance(function, relax.Function) or variable in parts:
                busy[variable] = function
            elif operators(function) or parts & callees(function):
                # Who calls it may be absent; TVM would take it out with what nobody calls.
                busy[variable] = function.with_attr("global_symbol", variable.name_hint)
            else:
                plain[variable] = function
        if not busy:
            return module, {}
        regions = {region.variable: region.function for region in outlined.regions.values()}
        absent = {v: _absent(v.name_hint, f) for v, f in {**plain, **regions}.items()}
        lowered = inline.halves(base.run(IRModule({**busy, **absent}), self.passes, hooks))
        lowered, kernels = named(lowered, self._variables, self.room.describe)
        names = {variable.name_hint for variable in absent}
        kept = {v: f for v, f in lowered.functions.items() if v.name_hint not in names}
        return IRModule({**kept, **plain}, attrs=module.attrs), kernels

    def _keep(self, fingerprint: Fingerprint, lowered: Lowered) -> Lowered:
        """Remember `lowered`, as the last that was used, in place of the first."""
        self._lowered[fingerprint.digest] = lowered
        if len(self._lowered) > self.most:
            del self._lowered[next(iter(self._lowered))]
        return lowered

    def _light(self, kernel: Kernel, region: Region, store: Store) -> Kernel:
        """`kernel` without its loops, which are read again if they are ever needed."""

        def load() -> tirx.PrimFunc:
            found = store.get(KERNELS, _kernel_key(kernel.content))
            if found is not None:
                return serial.loads(found.decode())
            with self._lock:
                # Whoever cleaned the store took it; a region makes the same kernels again.
                return self._run(region, ()).kernels[kernel.name].load()

        return replace(kernel, head=_head(kernel.head), load=load)

    def _from_entry(self, entry: _Entry, region: Region, store: Store) -> Lowered:
        module = serial.loads(entry.module)
        heads = {
            v.name_hint: (v, f) for v, f in module.functions.items() if v.name_hint in entry.kernels
        }
        renamed = {v: shared(self._variables, name, v) for name, (v, _) in heads.items()}
        (function,) = rename(module, renamed).values()
        kernels = {
            name: self._light(Kernel(name, content, work, heads[name][1], _unloaded), region, store)
            for name, (content, work) in entry.kernels.items()
        }
        return Lowered(_private(function), kernels)


def _unloaded() -> tirx.PrimFunc:
    raise AssertionError("replaced by `_light`")


def _encode(lowered: Lowered, region: Region) -> bytes:
    functions: dict[GlobalVar, tvm.ir.BaseFunc] = {region.variable: lowered.function}
    called = {v.name_hint: v for v in callees(lowered.function)}
    for name, kernel in lowered.kernels.items():
        functions[called[name]] = _head(kernel.head)
    text = serial.dumps(IRModule(functions))
    kernels = {name: (kernel.content, kernel.work) for name, kernel in lowered.kernels.items()}
    return msgspec.json.encode(_Entry(text, kernels), order="deterministic")


def _decode(payload: bytes) -> _Entry | None:
    try:
        return msgspec.json.decode(payload, type=_Entry)
    except msgspec.DecodeError:
        return None


def _kernel_key(content: str) -> Fingerprint:
    return Fingerprint((("content", content),))


def _to_json(function: tirx.PrimFunc) -> bytes:
    return serial.dumps(function).encode()


def _head(kernel: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel that does nothing: those who call it look at no more than its parameters.

    One that only reshapes stays as it is: TVM looks at its loops, and calls no kernel for it.
    """
    loops = isinstance(kernel.body, SBlockRealize)  # of nothing else it may be asked
    if loops and relax.analysis.has_reshape_pattern(kernel):
        return kernel
    return tirx.PrimFunc(kernel.params, tirx.Evaluate(0), attrs=kernel.attrs)


def _absent(name: str, function: relax.Function) -> relax.Function:
    """A function of the type of `function` that no pass looks into."""
    params = [relax.Var(str(p.name), p.ty) for p in function.params]
    packed = relax.op.call_pure_packed(name, *params, ty_args=[function.ret_ty])
    result = relax.Var("result", function.ret_ty)
    body = relax.SeqExpr([relax.DataflowBlock([relax.VarBinding(result, packed)])], result)
    made = relax.Function(params, body, function.ret_ty, True)
    return relax.utils.copy_with_new_vars(made).with_attr("global_symbol", name)


def _private(function: relax.Function) -> relax.Function:
    return function.without_attr("global_symbol").without_attr(INPUTS)


@functools.cache
def compiler_digest() -> str:
    """SHA-256 of the sources that lower regions: kernels follow from them as from their inputs."""
    root, state = Path(__file__).parent.parent, hashlib.sha256()
    for folder in ("codegen", "ir", "passes"):
        for path in sorted((root / folder).rglob("*.py")):
            state.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
