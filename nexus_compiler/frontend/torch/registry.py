"""Which operators have a handler. Each family is a file of handlers, imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_compiler.frontend.torch.node import Node

Handler = Callable[["Node"], Any]
"""Returns a Relax expression, or a sequence of them (None for results that nobody reads)."""

FAMILIES = (
    "activation",
    "arithmetic",
    "attention",
    "border",
    "convolution",
    "counting",
    "creation",
    "elementwise",
    "index",
    "matmul",
    "movement",
    "normalize",
    "parts",
    "pool",
    "random",
    "recurrent",
    "reduce",
    "resize",
    "slicing",
    "sorting",
    "special",
)

_HANDLERS: dict[str, Handler] = {}


def op(*names: str) -> Callable[[Handler], Handler]:
    """Decorator: the function translates these operators of `aten`, all overloads of each.

    A name with an overload ("max.dim") goes before the name without one.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            _HANDLERS[name if "::" in name else f"aten::{name}"] = handler
        return handler

    return register


@cache
def handlers() -> dict[str, Handler]:
    """All handlers by operator."""
    for family in FAMILIES:
        importlib.import_module(f"nexus_compiler.frontend.torch.{family}")
    return _HANDLERS


def name_of(target: Any) -> str:
    """An operator's name with its namespace, without its overload; "" for other targets."""
    return str(getattr(getattr(target, "_schema", None), "name", ""))


def find(target: Any) -> Handler | None:
    """The handler of an operator overload, or None."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    table = handlers()
    return table.get(f"{schema.name}.{schema.overload_name}") or table.get(schema.name)
