"""Loads kernels and a program into this process without writing a module.

Kernels that are new are linked to one shared library, which takes 20 ms and not the 100 ms of all
of them; kernels that were loaded before stay. The program of the virtual machine is made in memory
and finds its kernels in these libraries.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import IRModule, tirx

from nexus_compiler.codegen.door import Plan, Unit
from nexus_compiler.codegen.kernels import name_of
from nexus_compiler.codegen.llvm import link
from nexus_compiler.codegen.llvm.trial import Trial
from nexus_compiler.ir import canonical
from nexus_compiler.targets import TargetSpec
from nexus_runtime.executors.tvm_vm import TvmExecutor, load_library
from nexus_runtime.signature import Signature
from nexus_runtime.threads import Threads


def open_program(
    plan: Plan,
    objects: Mapping[str, bytes],
    signature: Signature,
    target: TargetSpec,
    llvm: tvm.target.Target,
    setting: Threads,
) -> TvmExecutor:
    """An executor of `plan`, whose kernels are `objects` by name.

    Raises:
        TargetError: no linker for the target is installed.
    """
    executable = link.bytecode(plan.host, llvm).get()
    for library in _LOADED.libraries(objects, target, setting):
        executable.mod.import_module(library)
    return TvmExecutor(executable.mod, signature, plan.steps)


def open_trials(
    modules: Sequence[IRModule],
    target: TargetSpec,
    setting: Threads,
    build: Callable[[Unit], bytes],
) -> list[Trial]:
    """The kernels of `modules`, each built once, in one library that is loaded.

    Raises:
        TargetError: no linker for the target is installed.
    """
    objects: dict[str, bytes] = {}
    called: list[dict[str, str]] = []
    for module in modules:
        names: dict[str, str] = {}
        for variable, function in module.functions.items():
            if isinstance(function, tirx.PrimFunc):
                content, nameless = canonical.digest_and_nameless(function)
                name = names[str(variable.name_hint)] = name_of(content)
                own = nameless.with_attr("global_symbol", name)
                if name not in objects:
                    objects[name] = build(Unit(name, content.encode(), _Loop(own)))
        called.append(names)
    library = _load(objects, target, setting)
    return [
        Trial(module, {name: library[symbol] for name, symbol in names.items()})
        for module, names in zip(modules, called, strict=True)
    ]


@dataclass(frozen=True)
class _Loop:
    """What `build` takes of a kernel."""

    function: tirx.PrimFunc

    def load(self) -> tirx.PrimFunc:
        return self.function


_Key = tuple[str, str, str, str]
"""Of a kernel: its name, the SHA-256 of its object, the setting of threads, the target."""


class _Loaded:
    """Libraries of kernels that this process has loaded. They are never unloaded."""

    def __init__(self) -> None:
        # By setting of threads too, as a library holds one pointer to its launcher; and by target,
        # so that no kernel hides one of its name that was built for another.
        self._libraries: dict[_Key, Any] = {}
        self._lock = threading.Lock()

    def libraries(
        self, objects: Mapping[str, bytes], target: TargetSpec, setting: Threads
    ) -> list[Any]:
        """Libraries that hold all of `objects`, each once."""
        built_for = repr(target.factors())
        keys = {
            name: (name, hashlib.sha256(data).hexdigest(), setting.label, built_for)
            for name, data in sorted(objects.items())
        }
        with self._lock:
            for name in self._hidden(keys):
                del self._libraries[keys[name]]
            if fresh := [name for name, key in keys.items() if key not in self._libraries]:
                made = _load({name: objects[name] for name in fresh}, target, setting)
                self._libraries.update({keys[name]: made for name in fresh})
            found = [self._libraries[key] for key in keys.values()]
        return list({id(library): library for library in found}.values())

    def _hidden(self, keys: Mapping[str, _Key]) -> list[str]:
        """Kernels whose library also has another object by one of these names, as after a repair.

        A program looks a name up in all of its libraries and takes the first.
        """
        wanted = set(keys.values())
        others = {
            id(library)
            for key, library in self._libraries.items()
            if key[0] in keys and key not in wanted
        }
        known = {name: self._libraries.get(key) for name, key in keys.items()}
        return [name for name, library in known.items() if id(library) in others]


def _load(objects: Mapping[str, bytes], target: TargetSpec, setting: Threads) -> Any:
    linker = link.needed_linker(target)
    # The file may go as soon as it is mapped; the loader knows libraries by device and inode, which
    # stay taken as long as it is.
    with tempfile.TemporaryDirectory(prefix="nexus-kernels-") as directory:
        inputs: list[str] = []
        for name, data in objects.items():
            path = Path(directory) / f"{name}.o"
            path.write_bytes(data)
            inputs.append(str(path))
        library = Path(directory) / "kernels.so"
        link.run_linker(linker, str(library), inputs)
        return load_library(library, setting)


_LOADED = _Loaded()
