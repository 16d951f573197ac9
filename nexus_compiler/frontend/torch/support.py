"""Whether all operators of a graph can be translated, and which of them need no translation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from nexus_compiler.frontend.torch import registry
from nexus_compiler.frontend.torch.node import where
from nexus_runtime.errors import UnsupportedOperator

if TYPE_CHECKING:
    from nexus_compiler.frontend.torch.node import Node

_HINT = (
    "write the model with other operators, or add a handler in nexus_compiler/frontend/torch "
    "(one function with @op)"
)
# Checks of what PyTorch assumed about sizes; the compiled function checks its own shapes.
_IGNORED = {
    "aten::_assert_async",
    "aten::_assert_scalar",
    "aten::_assert_tensor_metadata",
    "aten::sym_constrain_range",
    "aten::sym_constrain_range_for_size",
}


def is_ignored(target: Any) -> bool:
    """Whether an operator only checks something."""
    return getattr(getattr(target, "_schema", None), "name", "") in _IGNORED


def check_operators(module: torch.fx.GraphModule) -> None:
    """Check that all operators of a graph can be translated.

    Raises:
        UnsupportedOperator: some cannot; the message lists all, how often and where they are.
    """
    missing: dict[str, list[torch.fx.Node]] = {}
    for node in _missing(module):
        missing.setdefault(str(node.target), []).append(node)
    if missing:
        lines = [
            f"{name} ({'once' if len(nodes) == 1 else f'{len(nodes)} times, first'}"
            f"{where(nodes[0]) or f' as {nodes[0].name}'})"
            for name, nodes in sorted(missing.items())
        ]
        count = "1 operator" if len(lines) == 1 else f"{len(lines)} operators"
        raise UnsupportedOperator(
            f"no translation for {count} of the model: " + "; ".join(lines), hint=_HINT
        )


def _missing(module: Any) -> Iterator[torch.fx.Node]:
    for node in module.graph.nodes:
        if node.op == "get_attr":
            inner = getattr(module, str(node.target), None)
            if isinstance(inner, torch.fx.GraphModule):
                yield from _missing(inner)
        elif node.op == "call_function" and not _has_translation(node):
            yield node


def _has_translation(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    on_sizes = isinstance(value, int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)
    if on_sizes or getattr(node.target, "__name__", "") == "getitem" or is_ignored(node.target):
        return True
    return bool(higher_order(node.target) or registry.find(node.target))


def higher_order(target: Any) -> Callable[[Node], Any] | None:
    """The translation of an operator that calls a graph, or None."""
    if not isinstance(target, torch._ops.HigherOrderOperator):  # pyright: ignore[reportPrivateUsage]
        return None
    from nexus_compiler.frontend.torch import control  # its handlers import this file's readers

    return control.HIGHER_ORDER.get(target.name())
