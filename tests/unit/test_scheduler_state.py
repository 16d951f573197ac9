"""The state machine: lists of events, exact lists of instructions; no network, no sleep."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_runtime.errors import InternalError
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler.profile import Sample
from nexus_runtime.scheduler.records import Phase, Standing
from nexus_runtime.scheduler.state import JobState

_PROFILE = (Sample(1, 0.01), Sample(100, 1.0))


class Machine:
    """A job and a clock that tests move by hand."""

    def __init__(self, **job) -> None:
        self.state, self.now = JobState(), 0.0
        defaults = {"samples": 20, "batch_size": 8, "epochs": 1, "expected_workers": 2}
        self.job = ev.JobSpec(**{**defaults, **job})
        self.sessions: dict[str, int] = {}
        self.out = self.do(ev.JobStarted, job=self.job, parameters="p0")

    def do(self, kind, *, after: float = 0.0, **fields) -> list[do.Instruction]:
        self.now += after
        return self.state.handle(kind(at=self.now, **fields))

    def join(self, *names: str, profile=_PROFILE, limit=None) -> list[do.Instruction]:
        out: list[do.Instruction] = []
        for name in names:
            self.sessions[name] = self.sessions.get(name, 0) + 1
            session = self.sessions[name]
            out += self.do(ev.WorkerRegistered, worker=name, session=session, pool="lab")
            ready = {"worker": name, "session": session, "profile": profile}
            out += self.do(ev.WorkerReady, **ready, memory_limit=limit)
        return out

    def poll(self, name: str) -> list[do.Instruction]:
        return self.do(ev.LeasePolled, worker=name, session=self.sessions[name])

    def lease(self, name: str) -> do.Lease:
        (send,) = (i for i in self.poll(name) if isinstance(i, do.SendLease))
        assert send.worker == name
        return send.lease

    def push(self, name: str, lease: do.Lease, **changes) -> list[do.Instruction]:
        fields = {
            "worker": name,
            "session": self.sessions[name],
            "lease": lease.id,
            "round": lease.round,
            "shard": lease.shard,
            "digest": f"{name}:{lease.id}",
            "count": lease.count,
            "seconds": 0.01,
        }
        return self.do(ev.ResultPushed, **{**fields, **changes})

    def applied(self) -> list[do.Instruction]:
        number = self.state.round.number
        return self.do(ev.RoundApplied, round=number, parameters=f"p{number + 1}")

    def tick(self, after: float, *alive: str) -> list[do.Instruction]:
        self.now += after
        for name in alive:
            self.do(ev.HeartbeatReceived, worker=name, session=self.sessions[name])
        return self.do(ev.Ticked)


def _only(kind, instructions):
    return [i for i in instructions if isinstance(i, kind)]


def _answer(instructions) -> tuple[bool, str]:
    (ack,) = _only(do.AcknowledgeResult, instructions)
    return ack.counted, ack.reason


def test_a_whole_job_is_these_instructions():
    m = Machine()
    assert m.join("a") == []  # two are expected
    (plan,) = m.join("b")
    assert plan.placement.samples == {"a": 4, "b": 4}
    seen = []
    for _ in range(3):
        first, second = m.lease("a"), m.lease("b")
        seen += [(first.start, first.stop), (second.start, second.stop)]
        assert m.push("a", first) == [
            do.AcknowledgeResult(worker="a", lease=first.id, digest=f"a:{first.id}", counted=True)
        ]
        ack, commit = m.push("b", second)
        assert ack.counted
        assert [s.digest for s in commit.shards] == [f"a:{first.id}", f"b:{second.id}"]
        out = m.applied()
    assert seen == [(0, 4), (4, 8), (8, 12), (12, 16), (16, 18), (18, 20)]
    assert commit == do.CommitRound(
        round=2,
        epoch=0,
        step=3,
        count=4,
        shards=(
            do.ShardResult("a", first.id, 16, 18, f"a:{first.id}"),
            do.ShardResult("b", second.id, 18, 20, f"b:{second.id}"),
        ),
    )
    assert out == [do.FinishEpoch(epoch=0), do.FinishJob()]
    assert m.state.phase == Phase.DONE


def test_leases_carry_all_that_a_worker_needs():
    m = Machine(samples=16, epochs=2, expected_workers=1, seed=7)
    m.join("a")
    leases = []
    for _ in range(4):
        leases.append(m.lease("a"))
        m.push("a", leases[-1])
        m.applied()
    assert [lease.parameters for lease in leases] == ["p0", "p1", "p2", "p3"]
    assert [(x.epoch, x.start, x.row) for x in leases] == [
        (0, 0, 0),
        (0, 8, 8),
        (1, 0, 0),
        (1, 8, 8),
    ]
    assert leases[0].seed == leases[1].seed != leases[2].seed
    assert leases[0].deadline == m.job.timing.lease_floor


def test_a_poll_that_is_repeated_gets_the_same_lease():
    m = Machine(expected_workers=1)
    m.join("a")
    assert m.lease("a") == m.lease("a")


def test_a_result_that_is_repeated_counts_once():
    m = Machine()
    m.join("a", "b")
    lease = m.lease("a")
    assert _answer(m.push("a", lease)) == (True, "")
    assert _answer(m.push("a", lease)) == (False, "this shard was already counted")
    m.push("b", m.lease("b"))
    m.applied()
    assert _answer(m.push("a", lease)) == (False, "round 0 is over")


def test_a_result_of_another_size_is_refused():
    m = Machine(expected_workers=1)
    m.join("a")
    counted, reason = _answer(m.push("a", m.lease("a"), count=3))
    assert (counted, reason) == (False, "the result is of 3 samples, the lease of 8")


def test_a_lost_workers_shard_is_done_by_another_and_its_late_result_is_refused():
    m = Machine()
    m.join("a", "b")
    lost, own = m.lease("a"), m.lease("b")
    (fence,) = _only(do.FenceWorker, m.do(ev.WorkerLeft, worker="a", reason="killed"))
    assert (fence.worker, fence.session) == ("a", 1)
    assert _answer(m.push("b", own)) == (True, "")
    again = m.lease("b")
    assert (again.start, again.stop) == (lost.start, lost.stop)
    assert again.id != lost.id
    assert _answer(m.push("a", lost)) == (False, "this session was given up")
    (commit,) = _only(do.CommitRound, m.push("b", again))
    assert [s.worker for s in commit.shards] == ["b", "b"]
    (plan,) = _only(do.PlanRound, m.applied())
    assert plan.placement.samples == {"b": 8}
    assert "a: killed" in plan.why


def test_silence_beyond_patience_loses_a_worker():
    m = Machine()
    m.join("a", "b")
    m.lease("a")
    assert m.tick(5.0, "b") == []
    (fence,) = _only(do.FenceWorker, m.tick(0.5, "b"))
    assert (fence.worker, fence.reason) == ("a", "it was silent for 5 s")


def test_an_expired_lease_goes_to_another_but_the_worker_may_come_back():
    m = Machine()
    m.join("a", "b")
    slow, own = m.lease("a"), m.lease("b")
    m.push("b", own)
    for _ in range(5):
        m.tick(2.5, "a", "b")
    assert m.state.workers["a"].standing == Standing.AWAY
    again = m.lease("b")
    assert (again.start, again.stop) == (slow.start, slow.stop)
    assert _answer(m.push("a", slow))[1].startswith("the lease has expired")
    m.poll("a")
    assert m.state.workers["a"].standing == Standing.READY
    m.push("b", again)
    (plan,) = _only(do.PlanRound, m.applied())
    assert plan.placement.samples.keys() == {"a", "b"}


def test_a_worker_that_lets_leases_expire_again_and_again_is_given_up():
    m = Machine(samples=800)
    m.join("a", "b")
    fences = []
    for _ in range(3):
        m.push("b", m.lease("b"))
        m.poll("a")
        for _ in range(5):
            fences += _only(do.FenceWorker, m.tick(2.5, "a", "b"))
        m.push("b", m.lease("b"))
        m.poll("a")
        m.applied()
    assert [f.reason for f in fences] == ["3 of its leases in a row expired"]


def test_a_late_worker_takes_part_from_the_next_round():
    m = Machine(samples=80, expected_workers=1)
    m.join("a")
    lease = m.lease("a")
    assert lease.count == 8
    assert m.join("late") == []
    assert m.poll("late") == []
    m.push("a", lease, seconds=0.08)
    out = m.applied()
    assert _only(do.PlanRound, out)[0].placement.samples == {"a": 4, "late": 4}
    assert [s.worker for s in _only(do.SendLease, out)] == ["late"]


def test_a_worker_that_registers_again_loses_its_lease_to_itself():
    m = Machine(expected_workers=1)
    m.join("a")
    old = m.lease("a")
    m.join("a")
    new = m.lease("a")
    assert new.id != old.id
    stale = m.push("a", old, session=1)
    assert _answer(stale) == (False, "this session was given up")
    assert _only(do.FenceWorker, stale)[0].session == 1
    assert _answer(m.push("a", new)) == (True, "")


def test_without_workers_the_job_fails_after_its_grace():
    m = Machine(expected_workers=1)
    m.join("a")
    m.lease("a")
    m.do(ev.WorkerLeft, worker="a", reason="its process was killed by signal 9")
    assert m.tick(9.0) == []
    (fail,) = _only(do.FailJob, m.tick(2.0))
    assert "the last was 'a': its process was killed by signal 9" in fail.message
    assert m.state.phase == Phase.FAILED


def test_a_worker_within_the_grace_saves_the_job():
    m = Machine(expected_workers=1)
    m.join("a")
    lost = m.lease("a")
    m.do(ev.WorkerLeft, worker="a")
    m.tick(9.0)
    m.join("b")
    assert (m.lease("b").start, m.state.round.parameters) == (lost.start, "p0")
    m.tick(4.0, "b")
    assert m.state.phase == Phase.COMPUTING


def test_the_job_starts_without_those_that_ended_before_they_came():
    m = Machine(expected_workers=2)
    m.join("a")
    m.do(ev.WorkerLeft, worker="b", reason="it could not start")
    assert m.lease("a").count == 8


def test_the_job_starts_without_those_that_do_not_come_in_time():
    m = Machine(expected_workers=3)
    m.join("a")
    assert m.poll("a") == []
    for _ in range(13):
        out = m.tick(5.0, "a")
        if _only(do.SendLease, out):
            break
    assert m.now == pytest.approx(60.0)


def test_the_job_fails_if_nobody_comes():
    m = Machine()
    assert m.tick(59.0) == []
    (fail,) = m.tick(2.0)
    assert fail.message == "no worker came"


def test_too_little_memory_fails_the_job_with_the_planners_words():
    m = Machine(expected_workers=1)
    m.join("a", limit=3)
    for _ in range(5):
        out = m.tick(4.0, "a")
        if out:
            break
    (fail,) = out
    assert "memory limits hold 3 samples" in fail.message


def test_an_error_outside_ends_the_job():
    m = Machine(expected_workers=1)
    m.join("a")
    lease = m.lease("a")
    assert m.do(ev.JobAborted, reason="interrupted") == [do.FailJob(message="interrupted", hint="")]
    assert _answer(m.push("a", lease)) == (False, "the job is over")


def test_without_federated_scheduling_speed_does_not_matter():
    m = Machine(federated=False)
    m.join("fast", profile=(Sample(1, 0.001),))
    (plan,) = m.join("slow", profile=(Sample(1, 1.0),))
    assert plan.placement.samples == {"fast": 4, "slow": 4}


def test_a_wrong_prediction_is_mended_after_k_rounds_and_not_before():
    m = Machine(samples=10_000, batch_size=100)
    m.join("a", "b")
    replanned = []
    for number in range(12):
        for name, speed in (("a", 0.01), ("b", 0.03)):
            lease = m.lease(name)
            m.push(name, lease, seconds=lease.count * speed)
        if plans := _only(do.PlanRound, m.applied()):
            replanned.append((number + 1, plans[0].placement.samples))
    assert [number for number, _ in replanned] == [5]
    assert replanned[0][1] == {"a": 75, "b": 25}


def test_a_share_of_nobody_is_no_lease():
    m = Machine(samples=8)
    m.join("near")
    m.join("far", profile=(Sample(1, 60.0),))
    assert m.lease("near").count == 8
    assert m.poll("far") == []
    assert _only(do.CommitRound, m.push("near", m.lease("near")))


def test_a_resumed_job_goes_on_with_its_epoch():
    m = Machine(epochs=3, first_epoch=2, expected_workers=1)
    m.join("a")
    lease = m.lease("a")
    assert (lease.round, lease.epoch, lease.start) == (6, 2, 0)


def test_a_job_that_was_done_already_finishes_at_once():
    assert Machine(epochs=2, first_epoch=2).out == [do.FinishJob()]


def test_applying_what_was_not_committed_is_our_fault():
    m = Machine(expected_workers=1)
    with pytest.raises(InternalError, match="was not to be"):
        m.do(ev.RoundApplied, round=0, parameters="p1")


def test_events_survive_a_journal():
    ready = ev.WorkerReady(at=1.0, worker="a", session=1, profile=_PROFILE)
    started = ev.JobStarted(
        at=0.0, job=ev.JobSpec(samples=1, batch_size=1, epochs=1), parameters=""
    )
    kind = ev.WorkerReady | ev.JobStarted
    for event in (ready, started):
        assert msgspec.json.decode(msgspec.json.encode(event), type=kind) == event


# Any order of events, any faults
_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["poll", "push", "push", "again", "kill", "join", "tick", "late", "apply"]),
        st.integers(0, 2),
        st.floats(0, 4),
    ),
    max_size=120,
)


@settings(max_examples=200, deadline=None)
@given(_ACTIONS, st.booleans())
def test_each_shard_counts_exactly_once_whatever_happens(actions, federated):
    """Lost, repeated, late and reordered calls: the commits are exactly the rows of the job."""
    m = Machine(samples=30, batch_size=8, epochs=2, expected_workers=1, federated=federated)
    names, held = ["a", "b", "c"], {"a": [], "b": [], "c": []}
    counted: set[tuple[int, int]] = set()
    commits: list[do.CommitRound] = []

    def take(instructions):
        for i in instructions:
            if isinstance(i, do.SendLease):
                held[i.worker].append(i.lease)
            elif isinstance(i, do.CommitRound):
                commits.append(i)

    def push(name, lease, session):
        out = m.push(name, lease, session=session)
        if _answer(out)[0]:
            assert (lease.round, lease.shard) not in counted, "counted twice"
            counted.add((lease.round, lease.shard))
        take(out)

    def act(action, name):
        session = m.sessions.get(name, 0)
        if action == "join" or not session:
            take(m.join(name))
        elif action == "poll":
            take(m.poll(name))
        elif action == "push" and held[name]:
            push(name, held[name][-1], session)
        elif action == "again" and held[name]:
            push(name, held[name][0], session)
        elif action == "late" and held[name]:
            push(name, held[name][-1], session - 1)
        elif action == "kill":
            take(m.do(ev.WorkerLeft, worker=name))
        elif action == "apply" and m.state.phase == Phase.APPLYING:
            take(m.applied())

    for action, index, pause in actions:
        if action == "tick":
            take(m.tick(pause, *[n for n in names[:index] if n in m.sessions]))
        else:
            act(action, names[index])
    for _ in range(60):  # then the faults end, and the job must end, too
        if m.state.phase in {Phase.DONE, Phase.FAILED}:
            break
        for action in ("apply", "join") if "a" not in m.sessions else ("apply", "poll", "push"):
            act(action, "a")
        worker = m.state.workers.get("a")
        if worker is None or worker.standing == Standing.LOST:
            act("join", "a")
        for name in ("b", "c"):
            if name in m.sessions:
                act("kill", name)
    if m.state.phase == Phase.FAILED:  # only time can do that
        assert any(action == "tick" for action, _, _ in actions)
        return
    assert m.state.phase == Phase.DONE
    rounds = [commit.round for commit in commits]
    assert rounds == list(range(8))
    for commit in commits:
        begin = commit.round % 4 * 8
        rows = [row for shard in commit.shards for row in range(shard.start, shard.stop)]
        assert rows == list(range(begin, min(begin + 8, 30)))
        assert commit.count == len(rows)
