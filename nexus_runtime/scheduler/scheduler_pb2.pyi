from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Blob(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("worker", "pool", "protocol")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    worker: str
    pool: str
    protocol: int
    def __init__(self, worker: _Optional[str] = ..., pool: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("session", "job", "artifact", "data", "data_fingerprint", "seed", "profile_batches", "heartbeat_seconds")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_BATCHES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    session: int
    job: str
    artifact: Blob
    data: str
    data_fingerprint: str
    seed: int
    profile_batches: _containers.RepeatedScalarFieldContainer[int]
    heartbeat_seconds: float
    def __init__(self, session: _Optional[int] = ..., job: _Optional[str] = ..., artifact: _Optional[_Union[Blob, _Mapping]] = ..., data: _Optional[str] = ..., data_fingerprint: _Optional[str] = ..., seed: _Optional[int] = ..., profile_batches: _Optional[_Iterable[int]] = ..., heartbeat_seconds: _Optional[float] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("batch", "seconds")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    batch: int
    seconds: float
    def __init__(self, batch: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ReadyRequest(_message.Message):
    __slots__ = ("worker", "session", "profile", "memory_limit_samples")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    worker: str
    session: int
    profile: _containers.RepeatedCompositeFieldContainer[Measurement]
    memory_limit_samples: int
    def __init__(self, worker: _Optional[str] = ..., session: _Optional[int] = ..., profile: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ..., memory_limit_samples: _Optional[int] = ...) -> None: ...

class ReadyReply(_message.Message):
    __slots__ = ("fenced",)
    FENCED_FIELD_NUMBER: _ClassVar[int]
    fenced: bool
    def __init__(self, fenced: bool = ...) -> None: ...

class PollRequest(_message.Message):
    __slots__ = ("worker", "session")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    worker: str
    session: int
    def __init__(self, worker: _Optional[str] = ..., session: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "round", "shard", "epoch", "start", "stop", "seed", "row", "parameters", "seconds", "parameter_data")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_DATA_FIELD_NUMBER: _ClassVar[int]
    id: int
    round: int
    shard: int
    epoch: int
    start: int
    stop: int
    seed: int
    row: int
    parameters: Blob
    seconds: float
    parameter_data: bytes
    def __init__(self, id: _Optional[int] = ..., round: _Optional[int] = ..., shard: _Optional[int] = ..., epoch: _Optional[int] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ..., seed: _Optional[int] = ..., row: _Optional[int] = ..., parameters: _Optional[_Union[Blob, _Mapping]] = ..., seconds: _Optional[float] = ..., parameter_data: _Optional[bytes] = ...) -> None: ...

class PollReply(_message.Message):
    __slots__ = ("kind", "lease", "reason")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NOTHING: _ClassVar[PollReply.Kind]
        LEASE: _ClassVar[PollReply.Kind]
        FINISHED: _ClassVar[PollReply.Kind]
        FENCED: _ClassVar[PollReply.Kind]
    NOTHING: PollReply.Kind
    LEASE: PollReply.Kind
    FINISHED: PollReply.Kind
    FENCED: PollReply.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: PollReply.Kind
    lease: Lease
    reason: str
    def __init__(self, kind: _Optional[_Union[PollReply.Kind, str]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class PushHead(_message.Message):
    __slots__ = ("worker", "session", "lease", "round", "shard", "count", "loss_sum", "correct", "seconds", "gradients")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    worker: str
    session: int
    lease: int
    round: int
    shard: int
    count: int
    loss_sum: float
    correct: int
    seconds: float
    gradients: Blob
    def __init__(self, worker: _Optional[str] = ..., session: _Optional[int] = ..., lease: _Optional[int] = ..., round: _Optional[int] = ..., shard: _Optional[int] = ..., count: _Optional[int] = ..., loss_sum: _Optional[float] = ..., correct: _Optional[int] = ..., seconds: _Optional[float] = ..., gradients: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("head", "data")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    head: PushHead
    data: bytes
    def __init__(self, head: _Optional[_Union[PushHead, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("counted", "reason")
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    counted: bool
    reason: str
    def __init__(self, counted: bool = ..., reason: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("worker", "session")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    worker: str
    session: int
    def __init__(self, worker: _Optional[str] = ..., session: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("fenced",)
    FENCED_FIELD_NUMBER: _ClassVar[int]
    fenced: bool
    def __init__(self, fenced: bool = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("worker", "session", "reason")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    worker: str
    session: int
    reason: str
    def __init__(self, worker: _Optional[str] = ..., session: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EntryName(_message.Message):
    __slots__ = ("bucket", "digest")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    digest: str
    def __init__(self, bucket: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class HasReply(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: bool
    def __init__(self, held: bool = ...) -> None: ...

class PutHead(_message.Message):
    __slots__ = ("name", "entry")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    name: EntryName
    entry: Blob
    def __init__(self, name: _Optional[_Union[EntryName, _Mapping]] = ..., entry: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("head", "data")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    head: PutHead
    data: bytes
    def __init__(self, head: _Optional[_Union[PutHead, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("name", "publish")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    name: EntryName
    publish: bool
    def __init__(self, name: _Optional[_Union[EntryName, _Mapping]] = ..., publish: bool = ...) -> None: ...

class ClaimReply(_message.Message):
    __slots__ = ("kind", "lease", "seconds", "data")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AGAIN: _ClassVar[ClaimReply.Kind]
        HELD: _ClassVar[ClaimReply.Kind]
        LEASE: _ClassVar[ClaimReply.Kind]
        MISSING: _ClassVar[ClaimReply.Kind]
    AGAIN: ClaimReply.Kind
    HELD: ClaimReply.Kind
    LEASE: ClaimReply.Kind
    MISSING: ClaimReply.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    kind: ClaimReply.Kind
    lease: int
    seconds: float
    data: bytes
    def __init__(self, kind: _Optional[_Union[ClaimReply.Kind, str]] = ..., lease: _Optional[int] = ..., seconds: _Optional[float] = ..., data: _Optional[bytes] = ...) -> None: ...

class Leases(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, leases: _Optional[_Iterable[int]] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("lost",)
    LOST_FIELD_NUMBER: _ClassVar[int]
    lost: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lost: _Optional[_Iterable[int]] = ...) -> None: ...

class AbandonReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
