"""The lease book: which shard of the round in flight is whose, and which results count."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_runtime.data import mask_seed
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler.placement import Placement
from nexus_runtime.scheduler.records import Round, Shard, Standing, Worker


class LeaseBook:
    """Leases of one job. Instructions go to `out`, in order."""

    def __init__(self, out: list[do.Instruction]) -> None:
        self.round: Round | None = None
        self._next = 1
        self._out = out

    def open(
        self,
        number: int,
        job: ev.JobSpec,
        *,
        parameters: str,
        placement: Placement,
        workers: dict[str, Worker],
        now: float,
    ) -> None:
        """Begin a round: cut its rows as planned and lease each piece to its worker."""
        epoch, index = divmod(number, job.rounds_per_epoch)
        start = index * job.batch_size
        shards: list[Shard] = []
        owners: list[Worker] = []
        for share in placement.shares:
            if share.samples:
                shards.append(Shard(start, start + share.samples))
                owners.append(workers[share.worker])
                start += share.samples
        self.round = Round(number, epoch, parameters, shards)
        for shard, owner in enumerate(owners):
            self._lease(owner, self.round, shard, job=job, now=now)

    @property
    def orphans(self) -> list[int]:
        """Shards that have neither a result nor a lease."""
        shards = self.round.shards if self.round else []
        return [i for i, s in enumerate(shards) if not s.digest and s.lease is None]

    def give_orphans(self, workers: Iterable[Worker], job: ev.JobSpec, now: float) -> None:
        """Lease each orphan to the worker that is likely to be done with it first."""
        ready = [w for w in workers if w.standing == Standing.READY]
        if self.round is None or not ready:
            return
        for index in self.orphans:
            count = self.round.shards[index].count
            owner = min(ready, key=lambda w: (w.backlog() + w.cost.seconds(count), w.name))
            self._lease(owner, self.round, index, job=job, now=now)

    def take_back(self, worker: Worker) -> None:
        """All that the worker holds becomes orphaned; what it still sends does not count."""
        for lease in worker.leases:
            if self.round and lease.round == self.round.number:
                self.round.shards[lease.shard].lease = None
        worker.leases, worker.polling = [], False

    def hand_over(self, worker: Worker, now: float) -> None:
        """Answer the worker's poll, if one waits, with the first of its leases."""
        if worker.polling and worker.leases:
            worker.polling, worker.sent = False, now
            self._out.append(do.SendLease(worker=worker.name, lease=worker.leases[0]))

    def refusal(self, event: ev.ResultPushed) -> str:
        """Why a result does not count, or ""."""
        current = self.round
        if current is None or event.round != current.number:
            return f"round {event.round} is over"
        if not 0 <= event.shard < len(current.shards):
            return f"round {event.round} has no shard {event.shard}"
        shard = current.shards[event.shard]
        if shard.digest:
            return "this shard was already counted"
        if shard.lease is None or shard.lease.id != event.lease or shard.worker != event.worker:
            return "the lease has expired; the shard was given to another worker"
        if event.count != shard.count:
            return f"the result is of {event.count} samples, the lease of {shard.count}"
        return ""

    def count(self, event: ev.ResultPushed, worker: Worker, now: float) -> None:
        """Enter a result that `refusal` had nothing against; learn from how long it took."""
        assert self.round is not None
        self.round.shards[event.shard].digest = event.digest
        worker.strikes = 0
        if worker.leases[0].id == event.lease:  # only the first was handed over: only it has a time
            total = now - worker.sent
            worker.cost = worker.cost.observe(event.count, compute=event.seconds, total=total)
        worker.leases = [lease for lease in worker.leases if lease.id != event.lease]

    def _lease(
        self, worker: Worker, current: Round, index: int, *, job: ev.JobSpec, now: float
    ) -> None:
        shard, timing = current.shards[index], job.timing
        predicted = worker.backlog() + worker.cost.seconds(shard.count)
        lease = do.Lease(
            id=self._next,
            round=current.number,
            shard=index,
            epoch=current.epoch,
            start=shard.start,
            stop=shard.stop,
            seed=mask_seed(job.seed, current.epoch),
            row=shard.start,
            parameters=current.parameters,
            deadline=now + max(timing.lease_floor, timing.lease_factor * predicted),
        )
        self._next += 1
        shard.lease, shard.worker = lease, worker.name
        worker.leases.append(lease)
        self.hand_over(worker, now)
