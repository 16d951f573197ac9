"""Groups of tests by what they need, snapshots, and small artifacts that many tests use.

`unit` needs nothing, `compiler` needs TVM and a C compiler, `device` needs a device or an emulator,
`network` talks gRPC on this machine. A test that cannot run here says what it lacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

GROUPS = ("unit", "compiler", "device", "network")
SNAPSHOTS = Path(__file__).parent / "snapshots"


def pytest_configure(config: pytest.Config) -> None:
    for group in GROUPS:
        config.addinivalue_line("markers", f"{group}: the tests in tests/{group}/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for group in GROUPS:
            if group in Path(item.fspath).parent.parts:
                item.add_marker(getattr(pytest.mark, group))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Never skip silently: each test that did not run is named with what it lacks.
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"not run: {report.nodeid}: {reason}")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """An empty cache for the run, in which all processes of pytest-xdist share what they build.

    What earlier runs, or the user, have left there would hide what fails in a new place.
    """
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXUS_CACHE", str(path))
        patch.setenv("NEXUS_CHECK_TYPES", "1")  # of what passes leave; see `ir/law.py`
        yield path


@pytest.fixture
def snapshot() -> Callable[[str, str], None]:
    """Compare text with tests/snapshots/NAME.txt; NEXUS_UPDATE_SNAPSHOTS=1 writes it instead."""

    def check(name: str, text: str) -> None:
        path = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("NEXUS_UPDATE_SNAPSHOTS"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), (
            f"no snapshot {path.name}; NEXUS_UPDATE_SNAPSHOTS=1 writes it:\n{text}"
        )
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def masked() -> Callable[[str], str]:
    """Replace what differs from run to run: hashes, times, sizes, versions, directories."""
    patterns = (
        (r"[0-9a-f]{64}", "<sha256>"),
        (r"\b[0-9a-f]{16}\b", "<digest>"),
        (r"(?<![\w.])\d+(\.\d+)? (s|ms|us|B|KiB|MiB)\b", r"<n> \2"),
        (r"\d\.\d\de[+-]\d\d", "<float>"),
        (r"(tvm|llvm|python|jax|compiler) +[0-9][\w.]*", r"\1 <version>"),
        (r"nexus-compiler [0-9.]+", "nexus-compiler <version>"),
    )

    def mask(text: str) -> str:
        for pattern, replacement in patterns:
            text = re.sub(pattern, replacement, text)
        return re.sub(r" +\n", "\n", re.sub(r"  +", "  ", text))

    return mask
