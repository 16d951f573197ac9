"""Proofs: what they are kept under, when they are taken, and that they are entries like others."""

from __future__ import annotations

import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from nexus_compiler.store import prune, signing, upkeep
from nexus_compiler.store.door import BUCKETS, PROOFS
from nexus_compiler.store.local import LocalStore
from nexus_compiler.store.remote import LayeredStore
from nexus_compiler.store.transport import FileSystem
from nexus_compiler.verify import compare, proofs
from nexus_compiler.verify.report import (
    DIFFERS,
    INHERITED,
    PROVED,
    UNCHECKED,
    FunctionVerdict,
    RegionVerdict,
    Report,
)

FACTORS = (("region", "0123"), ("target", "some"), ("passes", "fuse(max=3)"))
KEY = proofs.key_of(FACTORS, [(4, 8), ()])
OBJECTS = {"k_1": "aa", "k_2": "bb"}


def proof(error: float = 1e-6, dtype: str = "float32") -> proofs.Proof:
    bound = compare.bound_for(np.dtype(dtype))
    difference = compare.Difference("output 0", dtype, (4,), error, error, bound, error <= bound)
    return proofs.Proof((difference,), "jax", "cc", "layer", "model.py:41", OBJECTS)


def test_a_proof_is_found_under_its_key_and_its_objects_alone(tmp_path: Path) -> None:
    ledger = proofs.Ledger(LocalStore(tmp_path))
    ledger.keep(KEY, proof())
    assert ledger.find(KEY, OBJECTS) == proof()
    assert ledger.find(KEY, {**OBJECTS, "k_2": "bc"}) is None
    assert ledger.find(KEY, {"k_1": "aa"}) is None
    assert ledger.find(KEY, {**OBJECTS, "k_3": ""}) is None


@pytest.mark.parametrize("place", range(len(FACTORS)))
def test_every_factor_and_every_size_is_in_the_key(place: int) -> None:
    changed = [(n, f"{v}!") if i == place else (n, v) for i, (n, v) in enumerate(FACTORS)]
    other = proofs.key_of(changed, [(4, 8), ()])
    assert [name for name, _, _ in KEY.diff(other)] == [FACTORS[place][0]]
    assert proofs.key_of(FACTORS, [(4, 9), ()]).digest != KEY.digest
    assert proofs.key_of(FACTORS, [(4, 8)]).digest != KEY.digest
    assert proofs.key_of(FACTORS, [(48,), ()]).digest != KEY.digest


def test_a_check_that_failed_is_no_proof_and_ends_an_earlier_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    ledger = proofs.Ledger(store)
    ledger.keep(KEY, proof(1.0))
    assert not list(store.entries(PROOFS)), "nothing was there to be ended"
    ledger.keep(KEY, proof())
    assert ledger.find(KEY, OBJECTS) is not None
    ledger.keep(KEY, proof(1.0))
    assert ledger.find(KEY, OBJECTS) is None
    ledger.keep(KEY, proof())
    ledger.keep(KEY, proof(float("inf")))
    assert ledger.find(KEY, OBJECTS) is None


def test_what_is_no_proof_is_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put(PROOFS, KEY, b'{"outputs": []}')
    assert proofs.Ledger(store).find(KEY, OBJECTS) is None
    proofs.Ledger(store).keep(KEY, proof())
    path = store.path(PROOFS, KEY.digest)
    path.write_bytes(path.read_bytes().replace(b"1e-6", b"0e-6"))
    assert proofs.Ledger(store).find(KEY, OBJECTS) is None, "its hash does not fit any more"


def test_proofs_are_counted_checked_and_pruned(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    proofs.Ledger(store).keep(KEY, proof())
    assert PROOFS in BUCKETS
    assert PROOFS in [one.name.split("-")[0] for one in upkeep.usage(tmp_path)]
    assert list(upkeep.damaged(store, PROOFS)) == [(KEY.digest, False)]
    path = store.path(PROOFS, KEY.digest)
    path.write_bytes(path.read_bytes()[:-1])
    assert list(upkeep.damaged(store, PROOFS)) == [(KEY.digest, True)]
    proofs.Ledger(store).keep(KEY, proof())
    prune.wait(tmp_path)  # the first entry of a store begins a listing, which only one may do
    done = prune.prune(tmp_path, 0, now=time.time())
    assert done is not None and done.entries == 1
    assert proofs.Ledger(store).find(KEY, OBJECTS) is None


def test_a_proof_of_somebody_else_counts_where_its_key_is_trusted(tmp_path: Path) -> None:
    def store(who: str, trusted: str) -> LayeredStore:
        remote = FileSystem((tmp_path / "remote").as_uri())
        signer = signing.read_signer(tmp_path / f"{who}.key")
        trust = signing.read_trust([tmp_path / f"{trusted}.pub"])
        return LayeredStore(LocalStore(tmp_path / who), remote, trust=trust, signer=signer)

    for name in ("anna", "ben", "carl"):
        signing.new_pair(tmp_path / name)
    anna = store("anna", "anna")
    proofs.Ledger(anna).keep(KEY, proof())
    anna.close()
    assert proofs.Ledger(store("ben", "anna")).find(KEY, OBJECTS) == proof()
    with pytest.warns(UserWarning, match="not trusted"):
        assert proofs.Ledger(store("carl", "ben")).find(KEY, OBJECTS) is None


@pytest.mark.parametrize(
    "other",
    [
        np.ones((2, 3), np.float64),
        np.ones((3, 2), np.float32),
        np.full((2, 3), 2, np.float32),
        np.ones((2, 3), ml_dtypes.bfloat16),
    ],
)
def test_the_digest_of_tensors_is_of_dtype_shape_and_bytes(other: np.ndarray) -> None:
    one = np.ones((2, 3), np.float32)
    assert proofs.digest_of([one]) == proofs.digest_of([np.asfortranarray(one)])
    assert proofs.digest_of([one]) != proofs.digest_of([other])
    assert proofs.digest_of([one, other]) != proofs.digest_of([other, one])


def report(region: str, function: str | None) -> Report:
    regions = (RegionVerdict("00", region, 1, "layer", "", (), ()),)
    functions = () if function is None else (FunctionVerdict("main", function, "jax"),)
    return Report("some", regions, functions, (), 1.0)


@pytest.mark.parametrize(
    ("region", "function", "passed"),
    [
        (PROVED, PROVED, True),
        (INHERITED, INHERITED, True),
        (INHERITED, None, True),
        (DIFFERS, PROVED, False),
        (PROVED, DIFFERS, False),
        (UNCHECKED, PROVED, True),
        (UNCHECKED, None, False),
        (UNCHECKED, UNCHECKED, False),
        (PROVED, UNCHECKED, False),
    ],
)
def test_what_a_report_passes(region: str, function: str | None, passed: bool) -> None:
    assert report(region, function).passed is passed


def test_what_is_not_finite_tells_nothing() -> None:
    assert not compare.is_telling(np.full(3, np.nan, np.float32))
    assert not compare.is_telling(np.array([np.inf, np.nan]))
    assert compare.is_telling(np.array([np.inf, 1.0], ml_dtypes.bfloat16))
    assert compare.is_telling(np.zeros(2, np.int64))
    assert compare.is_telling(np.zeros(0, np.float32))
