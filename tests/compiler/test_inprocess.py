"""Kernels that this process loaded before: only those of the same bytes are used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from tvm import IRModule, te

from nexus_compiler import pipeline
from nexus_compiler.codegen.llvm import inprocess
from nexus_compiler.codegen.llvm.room import tvm_target
from nexus_runtime import threads


def built(name: str, addend: float, path: Path) -> bytes:
    """The object of a kernel called `name` that adds `addend` to four numbers."""
    target, _ = pipeline.prepare("native")
    x = te.placeholder((4,), "float32")
    y = te.compute((4,), lambda i: x[i] + tvm.tirx.const(addend, "float32"))
    function = te.create_prim_func([x, y]).with_attr("global_symbol", name)
    library = tvm.tirx.build(IRModule({name: function}), target=tvm_target(target))
    file = path / f"{name}-{addend}.o"
    library.write_to_file(str(file))
    return file.read_bytes()


def added(objects: dict[str, bytes], loaded: inprocess._Loaded) -> dict[str, float]:
    """What each kernel adds; a program, too, takes the first library that has its name."""
    target, _ = pipeline.prepare("native")
    found: dict[str, float] = {}
    for library in loaded.libraries(objects, target, threads.settle(1, None)):
        for name in objects:
            if name not in found and library.implements_function(name):
                made = tvm.runtime.tensor(np.zeros(4, np.float32))
                library[name](tvm.runtime.tensor(np.zeros(4, np.float32)), made)
                found[name] = float(made.numpy()[0])
    return found


def test_a_library_with_another_object_of_a_name_is_not_used(tmp_path: Path) -> None:
    one, other = (built("k_first", addend, tmp_path) for addend in (1.0, 2.0))
    second = built("k_second", 5.0, tmp_path)
    loaded = inprocess._Loaded()
    for _ in range(2):
        assert added({"k_first": one, "k_second": second}, loaded) == {
            "k_first": 1.0,
            "k_second": 5.0,
        }
        assert added({"k_first": other, "k_second": second}, loaded) == {
            "k_first": 2.0,
            "k_second": 5.0,
        }


def test_what_is_loaded_is_not_loaded_again(tmp_path: Path) -> None:
    objects = {name: built(name, 1.0, tmp_path) for name in ("k_third", "k_fourth")}
    target, _ = pipeline.prepare("native")
    loaded, setting = inprocess._Loaded(), threads.settle(1, None)
    first = loaded.libraries(objects, target, setting)
    again = loaded.libraries(objects, target, setting)
    assert len(first) == 1
    assert again[0] is first[0]
