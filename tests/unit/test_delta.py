"""Deltas: only what changed travels, and the result is the new artifact to the byte."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_runtime import artifact, delta, manifest
from nexus_runtime import cli as agent
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import ArtifactError
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

RANDOM = np.random.default_rng(0)
CODE = RANDOM.bytes(100_000)


def weights(count: int = 4, size: int = 50_000) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {f"w{n}": random.standard_normal(size).astype(np.float32) for n in range(count)}


def saved(
    path: Path, params: dict[str, np.ndarray], code: dict[str, bytes], note: str = ""
) -> Path:
    signature = Signature((FunctionSpec("main", (TensorSpec("x", "float32", (2,)),), ()),))
    modules = tuple(
        manifest.ModuleEntry(
            target=name,
            executor="tvm-vm",
            member=f"modules/{name}.so",
            rank=1,
            requires=manifest.Requires(),
            objects=(),
            factors={"note": note},
        )
        for name in code
    )
    draft = manifest.Manifest(
        format=manifest.FORMAT,
        version=manifest.VERSION,
        signature=signature,
        modules=modules,
        regions=(),
        provenance=manifest.Provenance("c", "k", "n", "", "h", {}, {}),
        members={},
    )
    members = {f"modules/{name}.so": data for name, data in code.items()}
    return artifact.assemble(draft, members, params).save(path)


def round_trip(old: Path, new: Path) -> int:
    """The delta's size in bytes; the artifact that it gives is `new`."""
    place = old.parent / "d.nxd"
    place.write_bytes(delta.make(old, new))
    result = delta.apply(old, place, old.parent / "result.nxa")
    assert result.read_bytes() == new.read_bytes()
    return place.stat().st_size


def test_nothing_changed(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.nxa", weights(), {"here": CODE})
    assert round_trip(old, old) < 2000


def test_one_tensor_changed(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.nxa", weights(), {"here": CODE})
    params = weights()
    params["w2"] = params["w2"] + 1
    new = saved(tmp_path / "new.nxa", params, {"here": CODE})
    assert params["w2"].nbytes < round_trip(old, new) < params["w2"].nbytes + 3000


def test_a_few_rows_of_a_large_tensor_changed(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.nxa", weights(1, 10**6), {"here": CODE})
    params = weights(1, 10**6)
    params["w0"][500_000:500_100] = 0
    new = saved(tmp_path / "new.nxa", params, {"here": CODE})
    assert round_trip(old, new) < 2 * 65536 + 3000


def test_weights_that_moved_or_were_renamed_do_not_travel(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.nxa", weights(), {"here": CODE})
    params = {f"layer.{name}": array for name, array in weights().items()}
    params["layer.a"] = np.ones(1000, np.float32)  # before all others, which move
    new = saved(tmp_path / "new.nxa", params, {"here": CODE})
    assert round_trip(old, new) < 4000 + 4000


def test_code_that_moved_is_a_small_patch(tmp_path: Path) -> None:
    addresses = np.frombuffer(CODE, np.uint32).copy()
    moved = addresses.copy()
    moved[::50] += 64  # as calls over a distance that grew
    old = saved(tmp_path / "old.nxa", weights(), {"here": addresses.tobytes()})
    code = moved[:500].tobytes() + RANDOM.bytes(64) + moved[500:].tobytes()
    new = saved(tmp_path / "new.nxa", weights(), {"here": code}, note="x")
    assert round_trip(old, new) < 5000


def test_targets_come_and_go(tmp_path: Path) -> None:
    code = RANDOM.bytes(3000)
    old = saved(tmp_path / "old.nxa", weights(), {"a": CODE, "b": code})
    new = saved(tmp_path / "new.nxa", weights(), {"b": code, "c": CODE})
    # The one that came is the one that went.
    assert round_trip(old, new) < 4000
    assert round_trip(new, saved(tmp_path / "third.nxa", weights(), {"d": RANDOM.bytes(9)})) < 3000


tensors = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 7, 40_000])),
    max_size=4,
)
codes = st.dictionaries(st.sampled_from("pqr"), st.binary(max_size=200), max_size=3)


@settings(max_examples=40, deadline=None)
@given(tensors, tensors, codes, codes)
def test_any_artifact_from_any_other(
    tmp_path_factory: pytest.TempPathFactory,
    old_tensors: dict[str, tuple[int, int]],
    new_tensors: dict[str, tuple[int, int]],
    old_code: dict[str, bytes],
    new_code: dict[str, bytes],
) -> None:
    def arrays(said: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
        return {n: np.full(size, value, np.float32) for n, (value, size) in said.items()}

    root = tmp_path_factory.mktemp("delta")
    old = saved(root / "old.nxa", arrays(old_tensors), old_code)
    new = saved(root / "new.nxa", arrays(new_tensors), new_code)
    round_trip(old, new)


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path, Path]:
    old = saved(tmp_path / "old.nxa", weights(), {"here": CODE})
    params = weights()
    params["w1"] = params["w1"] * 2
    new = saved(tmp_path / "new.nxa", params, {"here": CODE[:50_000] + CODE[50_100:]})
    place = tmp_path / "d.nxd"
    place.write_bytes(delta.make(old, new))
    return old, place, new


def test_another_artifact_is_refused(case: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, place, new = case
    output = tmp_path / "out.nxa"
    with pytest.raises(ArtifactError, match=r"no delta of .*new\.nxa: .* is another"):
        delta.apply(new, place, output)
    assert not output.exists()


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(1, 255), cut=st.booleans())
def test_damage_gives_an_error_or_the_right_artifact(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: bool
) -> None:
    root = tmp_path_factory.mktemp("damage")
    small = weights(2, 100)
    old = saved(root / "old.nxa", small, {"here": CODE[:2000]})
    new = saved(root / "new.nxa", {**small, "w1": small["w1"] + 1}, {"here": CODE[100:2000]})
    data = bytearray(delta.make(old, new))
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= value
    (root / "d.nxd").write_bytes(data)
    try:
        result = delta.apply(old, root / "d.nxd", root / "result.nxa")
    except ArtifactError:
        assert not (root / "result.nxa").exists()
    else:
        assert result.read_bytes() == new.read_bytes()


def changed(place: Path, **fields: object) -> None:
    """Write other values into the head of a delta."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(place) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == delta.HEAD:
                data = json.dumps(json.loads(data) | fields).encode()
            new.writestr(info, data)
    place.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "zip"}, "no delta"),
        ({"version": 9}, "version 9"),
        ({"members": 3}, "head is damaged"),
        ({"sha256": "0" * 64}, "not give the artifact"),
        ({"members": []}, "not give the artifact"),
        (
            {"members": [{"name": "m", "size": 1 << 60, "sha256": "", "patch": "manifest.json"}]},
            "cannot be made",
        ),
    ],
)
def test_wrong_heads_are_refused(
    case: tuple[Path, Path, Path], tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    old, place, _ = case
    changed(place, **fields)
    with pytest.raises(ArtifactError, match=said):
        delta.apply(old, place, tmp_path / "out.nxa")


def test_what_is_no_delta_and_what_is_missing(case: tuple[Path, Path, Path]) -> None:
    old, _, new = case
    with pytest.raises(ArtifactError, match="no delta"):
        delta.apply(old, new, old)
    with pytest.raises(ArtifactError, match="cannot read"):
        delta.apply(old, old.parent / "none.nxd", old)
    foreign = old.parent / "foreign.nxa"
    with zipfile.ZipFile(new) as read, zipfile.ZipFile(foreign, "w") as write:
        for name in reversed(read.namelist()):
            write.writestr(name, read.read(name))
    assert Artifact.open(foreign)
    with pytest.raises(ArtifactError, match="laid out"):
        delta.make(old, foreign)


def test_a_device_applies_it_in_place(
    case: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, place, new = case
    assert agent.main(["apply", str(old), str(place), "-o", str(old)]) == 0
    assert old.read_bytes() == new.read_bytes()
    assert capsys.readouterr().out == f"{old}\n"
    assert agent.main(["apply", str(old), str(place), "-o", str(old)]) == 1
    assert "hint: fetch the delta from the version that is installed" in capsys.readouterr().err
    assert old.read_bytes() == new.read_bytes()
