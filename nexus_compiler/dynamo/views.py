"""Results that are views of inputs or of other results, and share their memory.

AOTAutograd takes shape, strides and offset of such a result from what the graph returns, and makes
from these a view of the base: a copy with strides of its own would become a view of wrong elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.sizes import Size


@dataclass(frozen=True)
class View:
    """What a view is of its base, in elements.

    Attributes:
        shape: its sizes.
        strides: one for each size.
        offset: of its first element, from the first of the base.
    """

    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size

    def of(self, base: torch.Tensor, number: Callable[[Size], int]) -> torch.Tensor:
        """The view of `base`; `number` says what a size is in this call."""
        start = base.storage_offset() + number(self.offset)
        return base.as_strided(
            [number(size) for size in self.shape], [number(step) for step in self.strides], start
        )


def base_of(node: torch.fx.Node) -> torch.fx.Node:
    """The node whose memory the result of `node` is in: itself, unless it is a view."""
    while True:
        shared = [n for n in node.all_input_nodes if _memory(n) == _memory(node)]
        if not shared:
            return node
        node = shared[0]


def view_of(node: torch.fx.Node, base: torch.fx.Node) -> View | None:
    """What `node` is of `base`; None where it takes the elements as another dtype."""
    mine, its = node.meta["val"], base.meta["val"]
    if mine.dtype != its.dtype:
        return None
    offset = sizes.plain(mine.storage_offset()) - sizes.plain(its.storage_offset())
    shape, strides = (tuple(map(sizes.plain, of)) for of in (mine.shape, mine.stride()))
    return View(shape, strides, offset)


def is_packed(node: torch.fx.Node) -> bool:
    """Whether the elements of `node` are in PyTorch as our kernels leave them."""
    value = node.meta["val"]
    return value.storage_offset() == 0 and value.is_contiguous()


def symbols(view: View) -> set[Any]:
    """The symbols that occur in `view`."""
    found: set[Any] = set()
    for size in (*view.shape, *view.strides, view.offset):
        found |= getattr(size, "free_symbols", set())
    return found


def _memory(node: torch.fx.Node) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    return value.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
