"""What one export takes: a Relax function and those that it calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from nexus_compiler.ir import canonical
from nexus_compiler.ir.calls import callees
from nexus_runtime.errors import UnsupportedOperator


@dataclass(frozen=True)
class Program:
    """A Relax function, its name (for messages), and the functions of its module by name."""

    name: str
    function: relax.Function
    callees: Mapping[str, relax.Function]


def content(program: Program) -> bytes:
    """The canonical digests of the function and of all that it calls.

    Raises:
        UnsupportedOperator: it calls a kernel.
    """
    lines, seen, waiting = [canonical.digest(program.function)], set[str](), [program.function]
    while waiting:
        for name in sorted(str(callee.name_hint) for callee in callees(waiting.pop())):
            if name not in program.callees:
                raise UnsupportedOperator(
                    f"function '{program.name}' calls the kernel '{name}'",
                    hint="a module is exported to XLA before its operators are lowered",
                )
            if name not in seen:
                seen.add(name)
                waiting.append(program.callees[name])
                lines.append(f"{name} {canonical.digest(program.callees[name])}")
    return "\n".join(lines).encode()
