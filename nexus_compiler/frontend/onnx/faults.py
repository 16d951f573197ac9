"""What a node can do wrong beyond what its handler looks at: a limit, or a sentence for it."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Generator
from typing import TYPE_CHECKING

from tvm import relax

from nexus_compiler.frontend.onnx.values import Host, Value, tensor_type
from nexus_runtime.errors import CaptureError, NexusError, ShapeError

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.node import Node

MOST_NODES = 500_000
"""Nodes that are imported, bodies of functions and steps of loops counted each time.

Functions that call others twice can stand for more nodes than there are atoms, in a few hundred
bytes.
"""

MOST_OPERATIONS = 20_000
"""Operations that one node becomes: a kernel of 2^31 taps, written out, would take a week."""

MOST_ELEMENTS = 2**48
"""Elements of one tensor: beyond, the arithmetic on addresses would overflow somewhere."""

# TVM's messages hold the whole description of an operator before they come to the point.
_DUMP = re.compile(r".*support_level=\d+\)[,:]?\s*", re.DOTALL)


@contextlib.contextmanager
def explained(node: Node) -> Generator[None]:
    """Whatever goes wrong inside is said to be of `node`.

    Raises:
        CaptureError: in the place of any error that is not ours.
    """
    try:
        yield
    except NexusError:
        raise
    except RecursionError as error:
        raise CaptureError(
            f"{node} is nested too deeply to be read", hint="flatten the model's subgraphs"
        ) from error
    except MemoryError as error:
        raise CaptureError(
            f"{node} asks for more memory than there is", hint="look at the sizes that it is given"
        ) from error
    except Exception as error:
        # TVM, ONNX and NumPy raise what they like; the place is the same.
        raise _misfit(node, error) from error


def _misfit(node: Node, error: Exception) -> CaptureError:
    lines = _DUMP.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return CaptureError(
        f"{node} (opset {node.opset}) does not fit its inputs: {lines[-1][:500]}",
        hint="check the model with ONNX's shape inference; if it is right, report this",
    )


def check_size(node: Node, value: Value) -> None:
    """Check that a result has a size that a tensor can have.

    Raises:
        ShapeError: a dimension is below zero, or all of them make too many elements.
    """
    if isinstance(value, Host) or not isinstance(value.ty, relax.TensorType):
        return
    if (shape := tensor_type(value).shape) is None:
        return
    sizes = [size for size in node.sizes.shape(shape.values) if isinstance(size, int)]
    if sizes and (min(sizes) < 0 or math.prod(sizes) > MOST_ELEMENTS):
        raise ShapeError(
            f"{node} (opset {node.opset}) makes a tensor of the sizes {sizes}",
            hint="look at the sizes, pads or repeats that it is given",
        )


class Tally:
    """How much a model has become while it was written out."""

    def __init__(self) -> None:
        self._nodes = self._operations = 0

    def node(self) -> None:
        """Count a node.

        Raises:
            CaptureError: there are too many.
        """
        self._nodes += 1
        self._operations = 0
        if self._nodes > MOST_NODES:
            raise CaptureError(
                f"the model stands for more than {MOST_NODES:,} nodes once its functions and loops "
                "are written out",
                hint="call its functions less often, or make a Loop of the repetition",
            )

    def operation(self) -> None:
        """Count an operation of the last node.

        Raises:
            OverflowError: they are too many; `explained` says of which node.
        """
        self._operations += 1
        if self._operations > MOST_OPERATIONS:
            raise OverflowError(f"it would take more than {MOST_OPERATIONS:,} operations")
