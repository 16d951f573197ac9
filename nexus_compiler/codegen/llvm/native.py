"""What "native" means on this machine."""

from __future__ import annotations

import msgspec
import tvm
from tvm.target import codegen

from nexus_compiler.targets import Requires, TargetSpec
from nexus_runtime import host

# Extensions that LLVM may use without asking; a virtual machine can hide some of them.
_X86 = ("amx", "avx", "bmi", "f16c", "fma", "gfni", "lzcnt", "movbe", "popcnt", "sha", "sse4")
_WATCHED = (*_X86, "ssse3", "vaes", "vpclmul", "asimd", "sve", "dotprod", "i8mm", "bf16")


def resolve(target: TargetSpec) -> TargetSpec:
    """`target` with triple, CPU, features and limits of this machine where it says "native"."""
    if target.options.get("mcpu") != "native":
        return target
    cpu, triple = str(codegen.llvm_get_system_cpu()), f"{host.machine()}-linux-gnu"
    used, hidden = _features(triple, cpu)
    return msgspec.structs.replace(
        target,
        options={"triple": triple, "mcpu": cpu, "features": [f"-{name}" for name in hidden]},
        limits=_limits(used),
        requires=Requires(machine=host.machine(), cpu_features=tuple(used)),
    )


def _features(triple: str, cpu: str) -> tuple[list[str], list[str]]:
    """The watched features of `cpu`: those of this machine, and LLVM's names of the others."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
    have = {_plain(name): name for name in host.cpu_features()}
    used: list[str] = []
    hidden: list[str] = []
    for name in sorted(str(feature) for feature in codegen.llvm_get_cpu_features(target)):
        if not name.startswith(_WATCHED):
            continue
        # Linux says bmi1 where LLVM says bmi.
        known = have.get(_plain(name)) or have.get(_plain(name) + "1")
        if known:
            used.append(known)
        else:
            hidden.append(name)
    return used, hidden


def _plain(name: str) -> str:
    return name.replace("_", "").replace(".", "").replace("-", "")


def _limits(features: list[str]) -> dict[str, int | str]:
    dot = _dot(features)
    if "avx512f" in features:
        return {"vector_bits": 512, "vector_registers": 32, "fma_ports": 2, "dot": dot}
    if "avx2" in features:
        return {"vector_bits": 256, "vector_registers": 16, "fma_ports": 2, "dot": dot}
    if "asimd" in features:
        return {"vector_bits": 128, "vector_registers": 32, "fma_ports": 1, "dot": dot}
    return {"vector_bits": 128, "vector_registers": 16, "fma_ports": 1, "dot": dot}


def _dot(features: list[str]) -> str:
    """The instruction for products of bytes."""
    wide = "avx512f" in features
    if "avx512_vnni" in features or ("avx_vnni" in features and not wide):
        return "vpdpbusd"
    if "ssse3" in features and (not wide or "avx512bw" in features):
        return "pmaddwd"
    return "sdot" if "dotprod" in features else ""
