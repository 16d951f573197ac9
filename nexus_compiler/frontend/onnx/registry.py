"""Which operators have a handler. Each family is a file of handlers, imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from nexus_compiler.frontend.onnx.values import Value

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.node import Node

Handler = Callable[["Node"], Value | Sequence[Value]]

FAMILIES = (
    "activation",
    "affine_grid",
    "attention",
    "bits",
    "causal_conv",
    "columns",
    "constant",
    "control",
    "conv",
    "determinant",
    "dynamic",
    "elementwise",
    "gradient",
    "grams",
    "index",
    "late",
    "late_resize",
    "learned",
    "losses",
    "matmul",
    "microsoft",
    "microsoft_attention",
    "microsoft_quantized",
    "microsoft_weights",
    "movement",
    "normalize",
    "pool",
    "qlinear",
    "quantize",
    "randomness",
    "recurrent",
    "reduce",
    "regions",
    "resize",
    "reverse",
    "scan",
    "sequence",
    "signal",
    "support_vectors",
    "suppression",
    "training",
    "trees",
    "vision",
)

_HANDLERS: dict[tuple[str, str], Handler] = {}
_AT_RUN_TIME: dict[tuple[str, str], Handler] = {}


def op(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Decorator: the function translates these operators of `domain`, for every opset version."""

    def register(handler: Handler) -> Handler:
        for name in names:
            _HANDLERS[domain, name] = handler
        return handler

    return register


def late(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Decorator: as `op`, for nodes whose ordinary handler lacks a constant (`NeedsConstant`)."""

    def register(handler: Handler) -> Handler:
        for name in names:
            _AT_RUN_TIME[domain, name] = handler
        return handler

    return register


def at_run_time() -> dict[tuple[str, str], Handler]:
    """The handlers that take sizes which only a run tells, by (domain, operator)."""
    handlers()
    return _AT_RUN_TIME


@cache
def handlers() -> dict[tuple[str, str], Handler]:
    """All handlers by (domain, operator)."""
    for family in FAMILIES:
        importlib.import_module(f"nexus_compiler.frontend.onnx.{family}")
    return _HANDLERS


def plain_domain(domain: str) -> str:
    """ONNX writes its own domain in two ways."""
    return "" if domain == "ai.onnx" else domain
