"""Define-by-run: `jit`, `grad` and `value_and_grad`."""

from nexus_compiler.define_by_run.api import grad, jit, value_and_grad
from nexus_compiler.define_by_run.function import JitFunction
from nexus_compiler.define_by_run.report import Compile, Report

__all__ = ["Compile", "JitFunction", "Report", "grad", "jit", "value_and_grad"]
