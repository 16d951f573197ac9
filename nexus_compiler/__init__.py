"""The compiler: capture a model, rebuild what changed, for every target at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_compiler import array_api
    from nexus_compiler.define_by_run import grad, jit, value_and_grad
    from nexus_compiler.frontend import CapturedGraph, capture
    from nexus_compiler.frontend.builder import GraphBuilder
    from nexus_compiler.pipeline import CompileOptions, compile, plan
    from nexus_compiler.session import Session
    from nexus_runtime.artifact import Artifact

__all__ = [
    "Artifact",
    "CapturedGraph",
    "CompileOptions",
    "GraphBuilder",
    "Session",
    "array_api",
    "capture",
    "compile",
    "grad",
    "jit",
    "plan",
    "value_and_grad",
]

# Loaded when they are first named: `nexusc --help` must not wait two seconds for TVM.
_LAZY = {
    "Artifact": "nexus_runtime.artifact",
    "CapturedGraph": "nexus_compiler.frontend",
    "CompileOptions": "nexus_compiler.pipeline",
    "GraphBuilder": "nexus_compiler.frontend.builder",
    "Session": "nexus_compiler.session",
    "capture": "nexus_compiler.frontend",
    "compile": "nexus_compiler.pipeline",
    "grad": "nexus_compiler.define_by_run",
    "jit": "nexus_compiler.define_by_run",
    "plan": "nexus_compiler.pipeline",
    "value_and_grad": "nexus_compiler.define_by_run",
}


def __getattr__(name: str) -> Any:
    if name == "array_api":
        return importlib.import_module("nexus_compiler.array_api")
    if name in _LAZY:
        if name != "Artifact":
            _import_tvm()
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nexus_compiler' has no attribute '{name}'")


def _import_tvm() -> None:
    from nexus_runtime.light import without_torch

    with without_torch():
        importlib.import_module("tvm.relax")
