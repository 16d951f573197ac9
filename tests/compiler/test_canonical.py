from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import mlp
from tvm import relax

from nexus_compiler.ir.canonical import digest


def function(
    constant: float = 1.0, name: str = "x", axis: int = 0, size: int = 4
) -> relax.Function:
    block = relax.BlockBuilder()
    x = relax.Var(name, relax.TensorType((size, 8), "float32"))
    with block.function(f"f_{name}", [x]):
        with block.dataflow():
            added = block.emit(relax.op.add(x, relax.const(np.float32(constant))), name_hint=name)
            output = block.emit_output(relax.op.sum(added, axis=axis))
        block.emit_func_output(output)
    return block.get()[f"f_{name}"]


def test_names_do_not_count() -> None:
    assert digest(function()) == digest(function(name="y"))
    assert digest(mlp().module["main"]) == digest(mlp(prefix="other_").module["main"])


@pytest.mark.parametrize("change", [{"constant": 2.0}, {"axis": 1}, {"size": 5}])
def test_everything_else_counts(change: dict) -> None:
    assert digest(function()) != digest(function(**change))


def test_kernels_are_covered_too() -> None:
    def kernels(prefix: str, hidden: int = 8) -> set[str]:
        module = relax.transform.LegalizeOps()(mlp(prefix=prefix, hidden=hidden).module)
        return {digest(f) for f in module.functions.values() if not isinstance(f, relax.Function)}

    assert kernels("") == kernels("other_")
    assert kernels("") != kernels("", hidden=9)


def test_the_digest_is_that_of_every_process() -> None:
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from small import mlp
        from nexus_compiler.ir.canonical import digest
        print(digest(mlp().module["main"]))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(mlp().module["main"])
