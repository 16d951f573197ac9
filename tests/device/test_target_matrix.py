"""Every target that we describe: built, and run in the way that its description says.

A target whose tools or whose machine are not here is reported as not run, with the cure.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nexus_compiler
from nexus_compiler import GraphBuilder, targets
from nexus_compiler.codegen.door import room_for
from nexus_compiler.store.local import LocalStore
from nexus_compiler.targets import TargetSpec
from nexus_compiler.verify import compare, runner
from nexus_runtime import host

NETWORK = (
    GraphBuilder()
    .input("image", (None, 2, 9, 9))
    .conv2d(5, 3, padding=1, activation="relu")
    .max_pool2d(2)
    .flatten()
    .dense(7, activation="softmax")
)


def reference(x: np.ndarray) -> np.ndarray:
    p = {name: torch.tensor(value) for name, value in NETWORK.parameters().items()}
    value = torch.conv2d(torch.tensor(x), p["conv2d_1.weight"], p["conv2d_1.bias"], padding=1)
    value = torch.max_pool2d(torch.relu(value), 2).flatten(1)
    return torch.softmax(value @ p["dense_1.weight"] + p["dense_1.bias"], -1).numpy()


def not_here(spec: TargetSpec) -> list[str]:
    """Why `spec` cannot be checked on this machine."""
    room = room_for(spec)
    missing = [
        f"needs {need.what}: {need.cure}" for need in room.requirements(spec) if not need.found
    ]
    if spec.check.level == "run":
        missing += [f"needs {what}" for what in host.unmet(room.resolve(spec).requires)]
    # What is fetched on first use is no reason to stay away.
    return [why for why in missing if "fetched" not in why]


@pytest.mark.parametrize("name", targets.load_all())
def test_target(name: str, tmp_path: Path) -> None:
    if why := not_here(targets.load(name)):
        pytest.skip(f"target {name} not run: {'; '.join(why)}")
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    artifact = nexus_compiler.compile(NETWORK, targets=[name], options=options)
    call = runner.open_function(artifact, artifact.manifest.signature.functions[0], target=name)
    for batch in (1, 6):
        x = np.random.default_rng(batch).standard_normal((batch, 2, 9, 9)).astype(np.float32)
        (difference,) = compare.compare(call({"image": x}), {"output": reference(x)})
        assert difference.passed, difference
