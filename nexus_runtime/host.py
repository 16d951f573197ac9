"""What this machine is: architecture and CPU features, as the requirements of modules name them."""

from __future__ import annotations

import functools
import importlib.util
import platform
from pathlib import Path

from nexus_runtime.manifest import Requires

# Linux's names of features that differ from LLVM's.
_LINUX_NAMES = {"pni": "sse3", "abm": "lzcnt", "asimddp": "dotprod"}


@functools.cache
def machine() -> str:
    """`x86_64`, `aarch64`, ...; the same word for the same architecture on every system."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def cpu_features() -> frozenset[str]:
    """Instruction set extensions of this CPU; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(_LINUX_NAMES.get(word, word) for word in value.split())
    return frozenset()


@functools.cache
def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    told: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())
    name = told.get("model name") or told.get("Hardware") or platform.machine()
    # Virtual machines call all of a maker's processors by one name.
    numbers = "-".join(told[key] for key in ("cpu family", "model", "stepping") if key in told)
    return f"{name} ({numbers})" if numbers else name


def unmet(requires: Requires) -> list[str]:
    """What `requires` asks for and this machine does not have, each as a phrase."""
    if requires.machine and requires.machine != machine():
        return [f"a {requires.machine} processor (this one is {machine()})"]
    have = cpu_features()
    lacking = [f"the CPU feature {name}" for name in requires.cpu_features if name not in have]
    lacking += [
        f"the Python package {name}"
        for name in requires.packages
        if importlib.util.find_spec(name) is None
    ]
    return lacking
