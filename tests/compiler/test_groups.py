"""Convolutions in groups, and of one filter, with channels last: against PyTorch in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nexus_compiler
import nexus_runtime
from nexus_compiler.store.local import LocalStore

TARGETS = ("native", "x86-64-v3", "x86-64-v2")
CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "four of four": (nn.Conv2d(64, 64, 3, padding=1, groups=16), (1, 64, 9, 11)),
    "odd, strided": (nn.Conv2d(15, 21, 3, padding=1, stride=2, groups=3), (2, 15, 9, 16)),
    "wide": (nn.Conv2d(96, 144, 3, groups=2), (1, 96, 7, 8)),
    "several filters a channel": (nn.Conv2d(8, 24, 3, dilation=2, groups=8), (1, 8, 10, 9)),
    "pixels": (nn.Conv2d(24, 12, 1, groups=3), (2, 24, 5, 6)),
    "lines": (nn.Conv1d(32, 48, 5, padding=2, groups=4), (1, 32, 31)),
    "one filter": (nn.Conv2d(16, 1, 3, padding=1), (2, 16, 9, 10)),
    "one filter of 67 channels": (nn.Conv2d(67, 1, (2, 3), stride=2), (1, 67, 8, 11)),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_torch(name: str, tmp_path: Path) -> None:
    convolution, shape = CASES[name]
    network = nn.Sequential(convolution, nn.Sigmoid()).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    artifact = nexus_compiler.compile(network, args=(x,), targets=TARGETS, options=options)
    with torch.no_grad():
        expected = network.double()(x.double()).numpy()
    network.float()
    for target in TARGETS:
        work = artifact.work(target)
        assert work is not None
        assert "naive" not in {kernel.family for kernel in work.kernels.values()}
        try:
            module = nexus_runtime.load(artifact, target=target)
        except nexus_runtime.DeviceError:
            continue  # this machine has no such vectors; how they are written was looked at
        np.testing.assert_allclose(np.asarray(module(x.numpy())), expected, rtol=0, atol=2e-6)
