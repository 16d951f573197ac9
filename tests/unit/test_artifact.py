"""The artifact format: what is written can be read, and nothing else is believed."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example as example_of
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_runtime import artifact, manifest, tensors
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import ArtifactError
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec


def example(**changes: object) -> Artifact:
    signature = Signature(
        (FunctionSpec("main", (TensorSpec("x", "float32", (2,)),), (), ("w",)),),
        (TensorSpec("w", "float32", (2,)),),
    )
    draft = manifest.Manifest(
        format=manifest.FORMAT,
        version=manifest.VERSION,
        signature=signature,
        modules=(
            manifest.ModuleEntry(
                target="here",
                executor="tvm-vm",
                member="modules/here.so",
                rank=1,
                requires=manifest.Requires(),
                objects=(),
                factors={},
            ),
        ),
        regions=(),
        provenance=manifest.Provenance("c", "k", "n", "", "h", {}, {}),
        members={},
    )
    members = {
        "modules/here.so": b"not really a library",
        artifact.PARAMS: tensors.encode({"w": np.array([1, 2], np.float32)}),
    }
    return artifact.assemble(msgspec.structs.replace(draft, **changes), members)


def rewritten(data: bytes, name: str, change: bytes | None) -> bytes:
    """The archive with one member replaced, or removed where `change` is None."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            content = change if info.filename == name else old.read(info)
            if content is not None:
                new.writestr(info, content)
    return buffer.getvalue()


def test_round_trip(tmp_path: Path) -> None:
    path = example().save(tmp_path / "a.nxa")
    opened = Artifact.open(path)
    assert opened.manifest == example().manifest
    assert opened.module_bytes("here") == b"not really a library"
    np.testing.assert_array_equal(opened.params()["w"], [1, 2])
    assert opened.params()["w"].ctypes.data % tensors.ALIGNMENT == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.nxa"], "no temporary file is left"


def test_equal_artifacts_are_equal_bytes() -> None:
    assert example().to_bytes() == example().to_bytes()


@pytest.mark.parametrize("name", ["modules/here.so", artifact.PARAMS])
def test_a_changed_member_is_named(name: str) -> None:
    data = rewritten(example().to_bytes(), name, b"something else")
    with pytest.raises(ArtifactError, match=f"{name} is not what the manifest says"):
        Artifact.from_bytes(data)


@pytest.mark.parametrize("name", ["modules/here.so", artifact.PARAMS, artifact.MANIFEST])
def test_a_missing_member_is_named(name: str) -> None:
    with pytest.raises(ArtifactError, match=name):
        Artifact.from_bytes(rewritten(example().to_bytes(), name, None))


def test_an_added_member_is_refused() -> None:
    buffer = io.BytesIO(example().to_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("modules/evil.so", b"x")
    with pytest.raises(ArtifactError, match=r"evil\.so, of which its manifest does not know"):
        Artifact.from_bytes(buffer.getvalue())


def test_a_compressed_member_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * 1_000_000)
    with pytest.raises(ArtifactError, match="compressed"):
        Artifact.from_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": manifest.VERSION + 1}, "manifest version 3, this release reads 1 and 2"),
        ({"format": "something"}, "format 'something'"),
    ],
)
def test_other_formats_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Artifact.from_bytes(example(**changes).to_bytes())


def test_a_later_version_with_unknown_fields_is_refused_as_such() -> None:
    data = example().to_bytes()
    later = b'{"format": "nexus-artifact", "version": 9, "something": {"new": 1}}'
    with pytest.raises(ArtifactError, match="manifest version 9.*\n.*update"):
        Artifact.from_bytes(rewritten(data, artifact.MANIFEST, later))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        Artifact.open(tmp_path / "none.nxa")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**30), st.binary(min_size=1, max_size=8))
@example_of(1476, b"\x00\x01")  # claims to be encrypted
def test_damage_anywhere_is_an_artifact_error_or_harmless(position: int, noise: bytes) -> None:
    good = example()
    data = bytearray(good.to_bytes())
    start = position % len(data)
    data[start : start + len(noise)] = noise
    try:
        opened = Artifact.from_bytes(bytes(data))
    except ArtifactError:
        return
    # Zip keeps some fields twice; what was read must still be what was written.
    assert opened.manifest == good.manifest
    assert opened.module_bytes("here") == good.module_bytes("here")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_a_cut_file_is_refused(length: int) -> None:
    data = example().to_bytes()
    with pytest.raises(ArtifactError):
        Artifact.from_bytes(data[: length % len(data)])


def test_the_published_schema_is_that_of_the_code() -> None:
    path = Path(__file__).parents[2] / "docs" / "manifest-v2.schema.json"
    schema = json.loads(json.dumps(manifest.json_schema()))
    assert json.loads(path.read_text()) == schema, "run `make schema`"


def test_manifests_of_the_first_version_are_read() -> None:
    described = json.loads(rewritable := example().manifest.encode())
    assert b'"guards"' in rewritable
    described["version"] = 1
    for function in described["signature"]["functions"]:
        del function["guards"]
    opened = manifest.decode(json.dumps(described).encode(), origin="old")
    assert opened.signature == example().manifest.signature


@pytest.mark.parametrize("guard", ["n <= 4", "2 +", "__import__('os')", "x.y > 1", "n ** 9 > 2"])
def test_guards_that_cannot_be_checked_are_refused(guard: str) -> None:
    described = json.loads(example().manifest.encode())
    described["signature"]["functions"][0]["guards"] = [guard]
    with pytest.raises(ArtifactError, match=r"damaged.*functions\[0\]"):
        manifest.decode(json.dumps(described).encode(), origin="strange")
