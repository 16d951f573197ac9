"""`nexusc doctor`."""

from __future__ import annotations

from importlib import metadata

import click

from nexus_compiler.cli import console, options
from nexus_runtime import files, host

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnx", "numpy", "grpcio")
_OPTIONAL = {"onnxruntime": "verify", "torch": "torch", "jax": "xla"}


@click.command("doctor")
@options.JSON
def doctor(as_json: bool) -> int:
    """Say what is installed and what each target still needs.

    Leave with 1 where a package that Nexus cannot do without is missing.
    """
    from nexus_compiler import targets
    from nexus_compiler.codegen.door import room_for
    from nexus_runtime import threads
    from nexus_runtime.executors import line

    packages = [(name, _version(name), "reinstall nexus-compiler") for name in _PACKAGES]
    packages += [
        (name, _version(name), f"pip install 'nexus-compiler[{extra}]'")
        for name, extra in _OPTIONAL.items()
    ]
    needs = [
        (spec.name, need)
        for spec in targets.load_all().values()
        for need in room_for(spec).requirements(spec)
    ]
    value = {
        "machine": host.machine(),
        "cpu_features": sorted(host.cpu_features()),
        "cache": str(files.cache_root()),
        "launcher": dict(zip(("name", "reason"), threads.chosen())),
        "threads": threads.settle().count,
        "calls": line.describe(),
        "packages": {name: version for name, version, _ in packages},
        "targets": [
            {"target": name, "needs": need.what, "found": need.found, "cure": need.cure}
            for name, need in needs
        ],
    }
    rows = [
        (name, version or "MISSING", "" if version else cure) for name, version, cure in packages
    ]
    target_rows = [
        (name, need.what, need.found or "MISSING", "" if need.found else need.cure)
        for name, need in needs
    ]
    text = "\n\n".join(
        [
            f"machine  {host.machine()}\ncache    {files.cache_root()}\n"
            f"threads  {threads.describe()}\ncalls    {line.describe()}",
            console.table(("package", "version", "cure"), rows),
            console.table(("target", "needs", "found", "cure"), target_rows),
        ]
    )
    console.emit(value, text, as_json=as_json)
    return 0 if all(_version(name) for name in _PACKAGES) else 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
