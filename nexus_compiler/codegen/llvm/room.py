"""The door of the room for CPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm import IRModule, tirx

from nexus_compiler.codegen.door import Plan, Requirement, Trial, Unit
from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.codegen.llvm import (
    donate,
    emulate,
    inprocess,
    link,
    lower,
    native,
    on_stack,
    work,
)
from nexus_compiler.codegen.llvm.fuse_updates import FuseUpdates
from nexus_compiler.codegen.llvm.pack import LegalizePacked
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.codegen.llvm.sum_bytes import SumBytes
from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.channels_last import ChannelsLast
from nexus_compiler.passes.fence import FenceSizes
from nexus_compiler.passes.fold_constants import FoldConstants
from nexus_compiler.passes.fold_scales import FoldScales
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.fuse_attention import FuseAttention
from nexus_compiler.passes.image_order import ImageOrder
from nexus_compiler.passes.integer_products import IntegerProducts
from nexus_compiler.passes.keep_bytes import KeepBytes
from nexus_compiler.passes.layers import Layers
from nexus_compiler.passes.prepare_weights import PrepareWeights
from nexus_compiler.passes.subpixel import SubPixel
from nexus_compiler.passes.turn_at_readers import TurnAtReaders
from nexus_compiler.targets import TargetSpec
from nexus_runtime.executors.base import Executor
from nexus_runtime.signature import FunctionSpec, Signature
from nexus_runtime.threads import Threads
from nexus_runtime.work import Kernel as Work


class LlvmRoom:
    """See `codegen/door.py`; units are kernels, objects are relocatable object files."""

    executor = "tvm-vm"
    suffix = ".so"

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """TVM, which carries its own LLVM."""
        return (("tvm", tvm.__version__), ("llvm", str(tvm.target.codegen.llvm_version_major())))

    def resolve(self, target: TargetSpec) -> TargetSpec:
        """Fill in "native"."""
        return native.resolve(target)

    def requirements(self, target: TargetSpec) -> Sequence[Requirement]:
        """A linker, and the emulator where the target is checked with one."""
        names = link.linkers(target)
        found = link.find_linker(target) or ""
        cure = f"install {names[0]} (Debian: {emulate.DEBIAN_PACKAGES.get(names[0], 'gcc')})"
        return [Requirement(f"linker {' or '.join(names)}", found, cure), *emulate.needs(target)]

    def graph_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """Layouts, and operators that become others."""
        named = str(target.limits.get("dot", ""))
        return (
            ImageOrder(),
            SubPixel(),
            ChannelsLast(),
            FoldConstants(),
            KeepBytes(),
            IntegerProducts(unsigned=named != "sdot"),
            FoldScales(),
            FuseAttention(),
            TurnAtReaders(),
            Layers(across=True),
        )

    def region_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """Kernels, what runs once at load, fewer kernels, fast kernels."""
        vectors = {key: target.limits[key] for key in ("vector_bits", "vector_registers")}
        named = str(target.limits.get("dot", ""))
        return (
            SumBytes(),
            LegalizePacked(**vectors, dot=named),
            PrepareWeights(),
            FenceSizes(),
            Fuse(),
            FuseUpdates(),
            Schedule(**vectors, dot=named),
        )

    def describe(self, kernel: tirx.PrimFunc, label: str) -> Work:
        """Read off the kernel's attributes."""
        return work.describe(kernel, label)

    def cut(
        self,
        module: IRModule,
        signature: Signature,
        target: TargetSpec,
        kernels: Mapping[str, Kernel],
    ) -> Plan:
        """One unit for each kernel that is different from all others."""
        program = donate.donated(PrepareWeights().apply(module), kernels)
        return lower.to_host_and_kernels(program, tvm_target(target), kernels)

    def build(self, unit: Unit, target: TargetSpec) -> bytes:
        """Compile one kernel to a relocatable object."""
        module = IRModule({unit.name: unit.payload.load()})
        library = tvm.tirx.build(module, target=tvm_target(target), pipeline=on_stack.PIPELINE)
        with tempfile.TemporaryDirectory(prefix="nexus-kernel-") as directory:
            path = Path(directory) / f"{unit.name}.o"
            library.write_to_file(str(path))
            return path.read_bytes()

    def revive(self, content: str, kernel: bytes) -> Unit:
        """A kernel from TVM's JSON."""
        return lower.revive(content, kernel)

    def link(self, plan: Plan, objects: Mapping[str, bytes], target: TargetSpec) -> bytes:
        """A shared library with the program of the virtual machine in it."""
        return link.link(plan.host, objects, target, tvm_target(target))

    def open(
        self,
        plan: Plan,
        objects: Mapping[str, bytes],
        signature: Signature,
        target: TargetSpec,
        setting: Threads,
    ) -> Executor:
        """Only kernels that this process has not loaded yet are linked."""
        return inprocess.open_program(plan, objects, signature, target, tvm_target(target), setting)

    def trials(
        self, modules: Sequence[IRModule], target: TargetSpec, setting: Threads
    ) -> Sequence[Trial]:
        """Equal kernels of several modules are built once."""
        return inprocess.open_trials(
            modules, target, setting, lambda unit: self.build(unit, target)
        )

    def emulate(
        self,
        module: bytes,
        function: FunctionSpec,
        arguments: Sequence[np.ndarray],
        target: TargetSpec,
    ) -> list[np.ndarray]:
        """Run under the target's user-mode emulator, with the slim runtime built for it."""
        return emulate.run(module, function, arguments, target)


def tvm_target(target: TargetSpec) -> tvm.target.Target:
    """TVM's own description of `target`."""
    options = target.options
    config = {"kind": "llvm", "mtriple": options["triple"], "mcpu": options["mcpu"]}
    if features := options.get("features"):
        config["mattr"] = list(features)
    return tvm.target.Target(config)
