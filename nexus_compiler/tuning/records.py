"""What was measured: a bucket of the store, by what was asked and where it was measured.

Graphs are no factors: a record of a kernel holds for every model that has it. A record only chooses
between kernels, whose objects have keys of their own, so that a wrong one costs time and no result.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import warnings
from pathlib import Path

import msgspec

from nexus_compiler.codegen.choices import Choice
from nexus_compiler.codegen.door import Room
from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store.door import TUNING, Store
from nexus_compiler.targets import TargetSpec


class TuningWarning(UserWarning):
    """A record cannot be used; what it was about is measured again, or left to analysis."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of one question.

    Attributes:
        label: what was asked, for people.
        taken: alternatives by fork; empty where analysis was right.
        times: of each alternative that was timed, in shares of the time of what analysis says.
    """

    label: str
    taken: dict[str, str]
    times: dict[str, float]


class Records:
    """Records of one target, measured on one kind of machine.

    Args:
        store: where they are kept.
        target: that was built for.
        room: of this target.
        machine: the processor's name.
        threads: of one call.
    """

    def __init__(
        self, store: Store, target: TargetSpec, room: Room, *, machine: str, threads: int
    ) -> None:
        self._store, self._machine, self._threads = store, machine, threads
        self._factors = (*room.versions, *target.factors())
        self._rules = _digest(Path(inspect.getfile(type(room))).parent)
        self._known: dict[str, Choice | None] = {}

    def key(self, question: str) -> Fingerprint:
        """The key of the record of a question, by its digest."""
        return Fingerprint(
            (
                ("question", question),
                ("machine", self._machine),
                ("threads", str(self._threads)),
                ("rules", self._rules),
                *self._factors,
            )
        )

    def of(self, question: str) -> Choice | None:
        """What was chosen; None where nothing was measured."""
        if question not in self._known:
            self._known[question] = self._read(question)
        return self._known[question]

    def keep(self, question: str, record: Record) -> None:
        """Write a record."""
        self._known[question] = Choice.of(record.taken)
        payload = msgspec.json.encode(record, order="deterministic")
        self._store.put(TUNING, self.key(question), payload)

    def _read(self, question: str) -> Choice | None:
        key = self.key(question)
        payload = self._store.get(TUNING, key)
        if payload is None:
            if self._store.about(TUNING, key.digest) is not None:
                _warn(key, "it is damaged")
            return None
        try:
            return Choice.of(msgspec.json.decode(payload, type=Record).taken)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _warn(key, str(error))
            return None


def _warn(key: Fingerprint, why: str) -> None:
    warnings.warn(
        f"the tuning record {key.digest[:12]} is not used: {why}", TuningWarning, stacklevel=4
    )


@functools.cache
def _digest(folder: Path) -> str:
    """SHA-256 of the rules: where they changed, what they chose from is another."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        state.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
