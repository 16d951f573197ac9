from __future__ import annotations

from pathlib import Path

import pytest

from nexus_compiler import targets
from nexus_runtime.errors import TargetError

GOOD = """
schema = 1
name = "board"
kind = "llvm"
description = "a board"
rank = 1
[llvm]
mcpu = "x"
[requires]
[check]
level = "emulate"
"""


def test_every_shipped_target_is_named_like_its_file() -> None:
    files = {p.stem for p in (Path(__file__).parents[2] / "targets").glob("*.toml")}
    assert set(targets.load_all()) == files


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(
        TargetError, match="unknown target 'x86-64-v33'\nhint: did you mean x86-64-v"
    ):
        targets.load("x86-64-v33")


def test_a_users_directory_adds_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "board.toml").write_text(GOOD)
    monkeypatch.setenv("NEXUS_TARGETS_PATH", str(tmp_path))
    assert targets.load("board").options == {"mcpu": "x"}
    assert "native" in targets.load_all()


def test_a_missing_users_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_TARGETS_PATH", "/nowhere/at/all")
    with pytest.raises(TargetError, match="NEXUS_TARGETS_PATH names /nowhere/at/all"):
        targets.load_all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rank = 1", 'rank = "one"'), r"`\$\.rank`"),
        (("rank = 1", "rnk = 1"), "rnk"),
        (("schema = 1", "schema = 2"), "schema is 2"),
        (('name = "board"', "name = board"), "is no TOML file"),
        (('level = "emulate"', ""), "level"),
    ],
)
def test_a_bad_file_names_the_field(change: tuple[str, str], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        targets.parse(GOOD.replace(*change), origin="board.toml")


def test_every_option_is_a_factor_and_tools_are_not() -> None:
    spec = targets.parse(GOOD, origin="board.toml")
    for changed in (GOOD.replace('"x"', '"y"'), GOOD + "[limits]\nvector_bits = 128\n"):
        assert targets.parse(changed, origin="b").factors() != spec.factors()
    tools = GOOD + '[toolchain]\nlinker = ["ld"]\n'
    assert targets.parse(tools, origin="b").factors() == spec.factors()
