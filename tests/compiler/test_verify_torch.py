"""PyTorch modules are verified against PyTorch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="pip install 'nexus-compiler[torch]'")
pytest.importorskip("jax", reason="pip install 'nexus-compiler[verify]'")

from torch import nn  # noqa: E402

from nexus_compiler import CompileOptions  # noqa: E402
from nexus_compiler.build import Memory  # noqa: E402
from nexus_compiler.store.local import LocalStore  # noqa: E402
from nexus_compiler.verify import api  # noqa: E402
from nexus_compiler.verify.report import INHERITED, PROVED, Report  # noqa: E402


def verified(model: Any, root: Path, *args: Any, **how: Any) -> Report:
    options = CompileOptions(store=LocalStore(root), memory=Memory())
    return api.verify(model, args=args, options=options, **how)


class Net(nn.Module):
    """Two products of two inputs, returned as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Any, shift: Any) -> dict[str, Any]:
        hidden = torch.relu(self.first(x) + shift)
        return {"hidden": hidden, "y": self.last(hidden)}


def test_a_module_is_compared_with_itself(tmp_path: Path) -> None:
    model, example = Net().eval(), (torch.zeros(4, 6), torch.zeros(8))
    for status in (PROVED, INHERITED):
        report = verified(model, tmp_path, *example)
        assert report.passed
        assert {row.status for row in report.regions} == {status}
        (whole,) = report.functions
        assert (whole.reference, whole.status) == ("pytorch", status)
        assert [one.output for one in whole.outputs] == ["hidden", "y"]
        assert all(row.location.startswith("test_verify_torch.py:") for row in report.regions)


def test_what_a_module_changes_is_compared_too_and_it_stays_as_it_is(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = verified(model, tmp_path, torch.zeros(4, 6))
    assert report.passed, report
    (whole,) = report.functions
    assert whole.reference == "pytorch"
    assert "update:1.running_mean" in [one.output for one in whole.outputs]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_dropout_is_computed_from_the_captured_graph(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)).train()
    report = verified(model, tmp_path, torch.zeros(4, 6))
    assert report.passed, report
    assert [one.reference for one in report.functions] == ["jax"]
