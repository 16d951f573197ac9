"""The rules of the tree: who imports whom, where targets are known, how long things are."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nexus_compiler import targets

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for package in ("nexus_compiler", "nexus_runtime")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "_pb2" not in path.name
]

# What each room of the compiler may import from the others (itself always).
MAY_IMPORT = {
    "frontend": {"ir"},
    "dynamo": {"frontend", "ir", "pipeline", "store"},
    "ir": set(),
    "passes": {"ir"},
    "store": {"ir"},
    "training": {"frontend", "ir", "passes"},
    "targets": set(),
    "codegen": {"ir", "store", "passes", "targets", "frontend"},
    "verify": {"targets", "build", "codegen", "frontend", "ir", "passes", "pipeline", "store"},
    "profile": {"targets", "codegen"},
    "tuning": {"targets", "codegen", "ir", "passes", "store"},
    "build": {"targets", "codegen", "frontend", "ir", "passes", "store", "tuning"},
    "planning": {"build", "targets", "codegen", "frontend", "ir", "passes", "store"},
    "collection": set(),
    "pipeline": {
        *("build", "collection", "targets", "codegen", "frontend", "ir", "passes", "planning"),
        "store",
    },
    "session": {"build", "collection", "codegen", "frontend", "pipeline"},
    "cli": {
        *("targets", "codegen", "passes", "pipeline", "planning", "profile", "session", "store"),
        "verify",
    },
    "define_by_run": {"frontend", "ir", "passes", "pipeline"},
    "array_api": {"define_by_run", "frontend"},
}
# `graph.build_training(...)` is the door by which a network brings its own builder to the runtime.
EXCEPTIONS = {
    ("frontend/builder/builder.py", "pipeline"),
    ("frontend/builder/builder.py", "training"),
    # In ONNX a gradient is an operator: the rest of the graph goes on with what it returns.
    ("frontend/onnx/gradient.py", "passes"),
    # The standard asks every array for its namespace, which also puts the engine behind it.
    ("frontend/tracing/array.py", "array_api"),
}
# The vocabulary that both packages share; the rest of the runtime is only for those named here.
SHARED = {
    "errors",
    "steps",
    "guards",
    "signature",
    "manifest",
    "files",
    "host",
    "listing",
    "tensors",
    "threads",
    "work",
}
MAY_OPEN_ARTIFACTS = (
    "codegen/package.py",
    "dynamo/",
    "pipeline.py",
    "profile/",
    "session.py",
    "store/served.py",
    "verify/",
    "cli/",
    "define_by_run/",
    "__init__.py",
)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "nexus_compiler").as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_import_directions(path: Path) -> None:
    names = imports(path)
    if path.is_relative_to(ROOT / "nexus_runtime"):
        assert not [n for n in names if n.split(".")[0] in ("nexus_compiler", "tvm", "torch")]
        return
    room = relative(path).split("/")[0].removesuffix(".py")
    for name in names:
        parts = name.split(".")
        if parts[0] == "nexus_compiler" and len(parts) > 1 and room != "__init__":
            allowed = MAY_IMPORT[room] | {room}
            known = parts[1] in MAY_IMPORT
            assert not known or parts[1] in allowed or (relative(path), parts[1]) in EXCEPTIONS, (
                name
            )
        if parts[:2] == ["nexus_runtime", "executors"] and room == "codegen":
            continue  # a room writes the module format that its executor reads
        if parts[0] == "nexus_runtime" and len(parts) > 1 and parts[1] not in SHARED:
            assert relative(path).startswith(MAY_OPEN_ARTIFACTS), name


def test_every_room_has_a_rule() -> None:
    rooms = {
        path.stem if path.is_file() else path.name
        for path in (ROOT / "nexus_compiler").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert rooms - {"__init__"} == set(MAY_IMPORT)


def test_every_package_is_shipped() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in ("nexus_compiler", "nexus_runtime")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert found | {"nexus_targets"} == set(listed)


def test_only_codegen_knows_targets() -> None:
    specs = targets.load_all().values()
    # "native" is the default of the API, and no kind of machine.
    words = {spec.name for spec in specs} | {spec.kind for spec in specs} - {"native"}
    words -= {"native"}
    found = []
    for path in SOURCES:
        if path.is_relative_to(ROOT / "nexus_compiler" / "codegen"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in words:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}")
    # An executor's and an extra's name may be the same word as a kind.
    assert [line for line in found if "cli/doctor.py" not in line] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_lengths(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350, "is the file doing one job?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 45, f"{node.name} has {length} lines"


def modules_after(code: str) -> set[str]:
    """The modules that a fresh process has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"tvm", "torch", "jax", "grpc", "onnx", "scipy", "sklearn"}


def test_importing_the_runtime_is_light() -> None:
    loaded = modules_after("import nexus_runtime")
    assert not loaded & (HEAVY | {"nexus_compiler", "tvm_ffi", "cryptography"})


def test_scheduler_config_needs_no_grpc() -> None:
    loaded = modules_after("from nexus_runtime import ClusterConfig, DeviceType")
    assert not loaded & {"tvm", "torch", "jax", "grpc", "nexus_compiler"}


def test_help_is_light() -> None:
    code = "from nexus_compiler.cli.main import _run\nassert _run(['--help']) == 0"
    assert not modules_after(code) & HEAVY
    code = "from nexus_compiler.cli.main import _run\nassert _run(['targets']) == 0"
    assert not modules_after(code) & HEAVY


def test_public_names_exist() -> None:
    import nexus_compiler
    import nexus_runtime

    for package in (nexus_compiler, nexus_runtime):
        for name in package.__all__:
            assert getattr(package, name) is not None
