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
from typing import Any, Protocol

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar

from nexus_compiler.codegen import inline
from nexus_compiler.codegen.choices import ANALYSIS, Choice, Choices, Question, given
from nexus_compiler.codegen.door import Room
from nexus_compiler.codegen.kernels import Kernel, named, rename, shared
from nexus_compiler.codegen.lowered import (
    Entry,
    Lowered,
    decode,
    encode,
    head,
    kernel_key,
    to_json,
)
from nexus_compiler.ir import serial
from nexus_compiler.ir.calls import callees, operators
from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.ir.region import INPUTS, Region
from nexus_compiler.passes import base
from nexus_compiler.passes.regions import Outlined
from nexus_compiler.store.door import KERNELS, REGIONS, Store
from nexus_compiler.targets import TargetSpec


class Answers(Protocol):
    """What was measured."""

    def of(self, question: str) -> Choice | None:
        """What was chosen, by the digest of a question; None where nothing was measured."""
        ...


@dataclass(eq=False)
class Lowering:
    """Lowers for one target; the last `most` that it lowered stay in memory. Safe for threads.

    With `answers` they choose between what analysis says and its alternatives; `taken` then tells
    by the labels of questions where they chose another one.
    """

    room: Room
    target: TargetSpec
    most: int = 8192
    answers: Answers | None = None
    taken: dict[str, str] = field(default_factory=dict[str, str])
    _lowered: dict[str, Lowered] = field(default_factory=dict[str, Lowered])
    _variables: dict[str, GlobalVar] = field(default_factory=dict[str, GlobalVar])
    _stored: dict[str, Store] = field(default_factory=dict[str, Store])
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

    @property
    def chosen(self) -> tuple[Factor, ...]:
        """One factor more: what the answers chose for the regions that were lowered so far."""
        said = "; ".join(f"{label}: {text}" for label, text in sorted(self.taken.items()))
        return (("choices", said),) if said else ()

    def with_answers(self, answers: Answers) -> Lowering:
        """The same with answers; both remember what either lowers."""
        return replace(self, answers=answers, taken={})

    def fingerprint(self, region: Region, choices: Choices = ANALYSIS) -> Fingerprint:
        """The key of the kernels of `region`."""
        factors = self.factors
        if choices.known:
            named = dict(base.factors(self._led(choices)))
            factors = tuple((name, named.get(name, value)) for name, value in factors)
        return Fingerprint((("region", region.digest), *factors))

    def known(self, region: Region, store: Store) -> Lowered | None:
        """The kernels of `region`, if they were made before; builds nothing."""
        with self._lock:
            return self._settled(region, lambda choices: self._known(region, store, choices))

    def region(self, region: Region, store: Store, hooks: Sequence[base.Hook] = ()) -> Lowered:
        """The kernels of `region`, from memory, from the store or by running the passes.

        They always run where there are `hooks`: whoever has any wants to see them.
        """

        def lower(choices: Choices) -> Lowered:
            found = None if hooks else self._known(region, store, choices)
            return found or self._make(region, store, hooks, choices)

        with self._lock:
            made = self._settled(region, lower)
        assert made is not None
        return made

    def questions(self, region: Region) -> list[Question]:
        """What the passes ask about `region`; runs them, with the answers that are there."""
        with self._lock:
            met: list[Question] = []

            def lower(choices: Choices) -> Lowered:
                met.clear()
                return self._run(region, (), choices, met)

            self._settled(region, lower)
            return met

    def _settled(
        self, region: Region, lower: Callable[[Choices], Lowered | None]
    ) -> Lowered | None:
        """What `lower` makes of choices that answer just the questions which they lead to.

        The first answers, about calls, settle what is asked next, about their kernels.
        """
        choices = ANALYSIS
        while (found := lower(choices)) is not None and self.answers is not None:
            answers = {digest: self.answers.of(digest) for digest, _ in found.questions or ()}
            now = Choices(tuple(sorted((d, c) for d, c in answers.items() if c and c.taken)))
            if now == choices:
                labels = dict(found.questions or ())
                self.taken.update({labels[d]: choice.text for d, choice in choices.known})
                break
            choices = now
        return found

    def _known(self, region: Region, store: Store, choices: Choices) -> Lowered | None:
        fingerprint = self.fingerprint(region, choices)
        found = self._lowered.pop(fingerprint.digest, None)
        if found is None:
            payload = store.get(REGIONS, fingerprint)
            if payload is None or (entry := decode(payload)) is None:
                return None
            found = self._from_entry(entry, region, store, choices)
        found = self._keep(fingerprint, found)
        asked = self.answers is None or found.questions is not None
        return found if asked else None

    def _make(
        self, region: Region, store: Store, hooks: Sequence[base.Hook], choices: Choices
    ) -> Lowered:
        made = self._run(region, hooks, choices, [])
        fingerprint = self.fingerprint(region, choices)
        store.put(REGIONS, fingerprint, encode(made, region))
        for kernel in made.kernels.values():
            if self._stored.get(kernel.content) is not store:
                store.put(KERNELS, kernel_key(kernel.content), to_json(kernel.load()))
                self._stored[kernel.content] = store
        light = {
            name: self._light(kernel, region, store, choices)
            for name, kernel in made.kernels.items()
        }
        self._keep(fingerprint, replace(made, kernels=light))
        return made

    def _led(self, choices: Choices) -> Sequence[base.Pass]:
        return [given(step, choices) for step in self.passes]

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

    def _run(
        self,
        region: Region,
        hooks: Sequence[base.Hook],
        choices: Choices = ANALYSIS,
        met: list[Question] | None = None,
    ) -> Lowered:
        asked: list[Question] = [] if met is None else met
        listens = self.answers is not None
        passes = self._led(replace(choices, note=asked.append) if listens else choices)
        name = region.variable.name_hint
        function = region.function.with_attr("global_symbol", name)
        module = base.run(IRModule({region.variable: function, **region.parts}), passes, hooks)
        module, kernels = named(inline.halves(module), self._variables, self.room.describe)
        (function,) = (f for f in module.functions.values() if isinstance(f, relax.Function))
        questions = {one.digest: one.label for one in asked}
        told = tuple(sorted(questions.items())) if listens else None
        return Lowered(_private(function), kernels, told)

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

    def _light(self, kernel: Kernel, region: Region, store: Store, choices: Choices) -> Kernel:
        """`kernel` without its loops, which are read again if they are ever needed."""

        def load() -> tirx.PrimFunc:
            found = store.get(KERNELS, kernel_key(kernel.content))
            if found is not None:
                return serial.loads(found.decode())
            with self._lock:
                # Whoever cleaned the store took it; a region makes the same kernels again.
                return self._run(region, (), choices).kernels[kernel.name].load()

        return replace(kernel, head=head(kernel.head), load=load)

    def _from_entry(self, entry: Entry, region: Region, store: Store, choices: Choices) -> Lowered:
        module = serial.loads(entry.module)
        heads = {
            v.name_hint: (v, f) for v, f in module.functions.items() if v.name_hint in entry.kernels
        }
        renamed = {v: shared(self._variables, name, v) for name, (v, _) in heads.items()}
        (function,) = rename(module, renamed).values()
        kernels = {
            name: self._light(
                Kernel(name, content, work, heads[name][1], _unloaded), region, store, choices
            )
            for name, (content, work) in entry.kernels.items()
        }
        return Lowered(_private(function), kernels, entry.questions)


def _unloaded() -> tirx.PrimFunc:
    raise AssertionError("replaced by `_light`")


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
