"""Computes Relax functions without the passes, schedules and kernels that are to be checked.

JAX does, through the translation of operators that the room for XLA has; what that does not know
TVM does, one operator a kernel as TVM lowers it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GlobalVar

from nexus_compiler.codegen.xla.program import Program
from nexus_runtime.errors import DeviceError, UnsupportedOperator
from nexus_runtime.executors.jax_export import import_jax

JAX, TVM = "jax", "tvm"
_PRECISION = "highest"
# Each region runs once or a few times: code that is made quickly beats code that is quick, but
# without any optimisation integer convolutions take seconds.
_OPTIONS = {"xla_backend_optimization_level": 1}
_Run = Callable[..., Sequence[Any]]


@dataclass(eq=False)
class Evaluator:
    """The reference for single functions.

    Attributes:
        with_jax: not for what JAX has compiled itself.
    """

    with_jax: bool = True
    _runs: dict[str, tuple[str, _Run]] = field(default_factory=dict[str, tuple[str, _Run]])

    @property
    def name(self) -> str:
        """Who computes what it can."""
        return JAX if self.with_jax else TVM

    def call(
        self,
        function: relax.Function,
        arguments: Sequence[np.ndarray],
        *,
        callees: Mapping[GlobalVar, relax.Function] | None = None,
        sizes: Mapping[Any, int] | None = None,
        key: str = "",
    ) -> tuple[str, list[np.ndarray]]:
        """Who computed it, and what `function` returns, a tuple of tensors.

        Args:
            function: of tensors.
            arguments: one for each parameter.
            callees: what it calls.
            sizes: of symbolic dimensions of `function` that no parameter tells.
            key: equal keys mean equal functions, which are compiled once.

        Raises:
            UnsupportedOperator: nobody can compute it.
            DeviceError: JAX is not installed.
        """
        if key and key in self._runs:
            name, run = self._runs[key]
            return name, [np.asarray(one) for one in run(*arguments)]
        found = self._first(function, arguments, callees or {}, sizes or {}, key)
        if key:
            self._runs[key] = found[:2]
        return found[0], found[2]

    def _first(
        self,
        function: relax.Function,
        arguments: Sequence[np.ndarray],
        callees: Mapping[GlobalVar, relax.Function],
        sizes: Mapping[Any, int],
        key: str,
    ) -> tuple[str, _Run, list[np.ndarray]]:
        if self.with_jax:
            run = _with_jax(function, callees, sizes, whole=bool(key))
            try:
                return JAX, run, [np.asarray(one) for one in run(*arguments)]
            except UnsupportedOperator:
                pass  # the report names who computed it instead
        try:
            run = _with_tvm(function, callees, sizes)
            return TVM, run, list(run(*arguments))
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedOperator(
                f"no reference computes this part of the model: {lines[-1]}"
            ) from error


def _with_jax(
    function: relax.Function,
    callees: Mapping[GlobalVar, relax.Function],
    sizes: Mapping[Any, int],
    *,
    whole: bool,
) -> _Run:
    try:
        jax = import_jax(("cpu",))
    except DeviceError as error:
        raise DeviceError(
            "checking regions needs JAX as the reference",
            hint="pip install 'nexus-compiler[verify]'",
        ) from error
    from nexus_compiler.codegen.xla.translate import evaluate

    program = Program("main", function, {str(v.name_hint): f for v, f in callees.items()})

    def computed(*arguments: Any) -> Sequence[Any]:
        return evaluate(program, [jax.numpy.asarray(one) for one in arguments], sizes)

    # What is met once is computed operator by operator: JAX remembers these across functions.
    ready = jax.jit(computed, compiler_options=_OPTIONS) if whole else computed

    def run(*arguments: np.ndarray) -> Sequence[Any]:
        # Scoped to this thread and this call: 64-bit integers must stay 64-bit.
        with jax.enable_x64(True), jax.default_matmul_precision(_PRECISION):
            return ready(*arguments)

    return run


def _with_tvm(
    function: relax.Function,
    callees: Mapping[GlobalVar, relax.Function],
    sizes: Mapping[Any, int],
) -> _Run:
    if sizes:
        function = function.bind_symbolic_vars(dict(sizes))
    main = function.with_attr("global_symbol", "main")
    module = IRModule({GlobalVar("main"): main, **callees})
    host = tvm.cpu()
    executable = relax.build(module, tvm.target.Target.from_device(host))
    machine = relax.VirtualMachine(executable, host)

    def run(*arguments: np.ndarray) -> Sequence[Any]:
        results = machine["main"](*map(tvm.runtime.tensor, arguments))
        return [one.numpy() for one in results]

    return run
