"""The doors: `jit`, `grad`, `value_and_grad`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nexus_compiler.define_by_run.differentiation import grad, value_and_grad
from nexus_compiler.define_by_run.function import JitFunction
from nexus_compiler.define_by_run.report import Report

__all__ = ["grad", "jit", "value_and_grad"]


class _Jit:
    """Compile a Python function over arrays, as it runs.

    Arguments may be NumPy arrays, DLPack arrays, arrays of `nexus_compiler.array_api`, and nested
    tuples, lists and dicts of these; everything else is static: a call with another value runs the
    Python code again. Results are NumPy arrays where arguments were, else arrays of the namespace.
    """

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        dynamic: bool = True,
        options: Any = None,
    ) -> Any:
        """Wrap `function`; without one, a decorator.

        Args:
            function: what to compile.
            dynamic: leave sizes open that were seen to differ between calls.
            options: `nexus_compiler.CompileOptions` for the regions.
        """
        if function is None:
            return lambda given: JitFunction(given, dynamic=dynamic, options=options)
        return JitFunction(function, dynamic=dynamic, options=options)

    @staticmethod
    def report(function: JitFunction) -> Report:
        """What happened to a jitted function so far."""
        return function.report()


jit = _Jit()
