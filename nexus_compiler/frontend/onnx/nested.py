"""The graphs inside of nodes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches and bodies that `node` holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
