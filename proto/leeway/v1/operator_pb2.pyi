from google.protobuf import timestamp_pb2 as _timestamp_pb2
from leeway.v1 import rollout_pb2 as _rollout_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChangeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_STATE_UNSPECIFIED: _ClassVar[ChangeState]
    CHANGE_STATE_PENDING: _ClassVar[ChangeState]
    CHANGE_STATE_APPLIED: _ClassVar[ChangeState]
    CHANGE_STATE_REFUSED: _ClassVar[ChangeState]
CHANGE_STATE_UNSPECIFIED: ChangeState
CHANGE_STATE_PENDING: ChangeState
CHANGE_STATE_APPLIED: ChangeState
CHANGE_STATE_REFUSED: ChangeState

class GetRunStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRunStatusResponse(_message.Message):
    __slots__ = ("run", "state", "step", "epoch", "version", "reported_at", "queued_groups", "uncommitted_groups", "halted", "changed_settings", "drained_fleets", "streams", "last_step")
    class ChangedSettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class StreamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LastStepEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_GROUPS_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_GROUPS_FIELD_NUMBER: _ClassVar[int]
    HALTED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FLEETS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    run: str
    state: str
    step: int
    epoch: int
    version: int
    reported_at: _timestamp_pb2.Timestamp
    queued_groups: int
    uncommitted_groups: int
    halted: str
    changed_settings: _containers.ScalarMap[str, str]
    drained_fleets: _containers.RepeatedScalarFieldContainer[str]
    streams: _containers.ScalarMap[str, int]
    last_step: _containers.ScalarMap[str, float]
    def __init__(self, run: _Optional[str] = ..., state: _Optional[str] = ..., step: _Optional[int] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., reported_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., queued_groups: _Optional[int] = ..., uncommitted_groups: _Optional[int] = ..., halted: _Optional[str] = ..., changed_settings: _Optional[_Mapping[str, str]] = ..., drained_fleets: _Optional[_Iterable[str]] = ..., streams: _Optional[_Mapping[str, int]] = ..., last_step: _Optional[_Mapping[str, float]] = ...) -> None: ...

class RecountLedgersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RecountLedgersResponse(_message.Message):
    __slots__ = ("groups", "discrepancies", "unverified")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    DISCREPANCIES_FIELD_NUMBER: _ClassVar[int]
    UNVERIFIED_FIELD_NUMBER: _ClassVar[int]
    groups: int
    discrepancies: _containers.RepeatedScalarFieldContainer[str]
    unverified: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, groups: _Optional[int] = ..., discrepancies: _Optional[_Iterable[str]] = ..., unverified: _Optional[_Iterable[str]] = ...) -> None: ...

class ListQuarantineRequest(_message.Message):
    __slots__ = ("keys", "fleet")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    fleet: str
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., fleet: _Optional[str] = ...) -> None: ...

class QuarantinedGroup(_message.Message):
    __slots__ = ("key", "fleet", "time", "group_id", "reason", "field", "value", "group")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    key: str
    fleet: str
    time: _timestamp_pb2.Timestamp
    group_id: str
    reason: str
    field: str
    value: str
    group: _rollout_pb2.Group
    def __init__(self, key: _Optional[str] = ..., fleet: _Optional[str] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., group_id: _Optional[str] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., group: _Optional[_Union[_rollout_pb2.Group, _Mapping]] = ...) -> None: ...

class ReplayQuarantineRequest(_message.Message):
    __slots__ = ("keys", "fleet")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    fleet: str
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., fleet: _Optional[str] = ...) -> None: ...

class ReplayQuarantineResponse(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[ReplayedGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[ReplayedGroup, _Mapping]]] = ...) -> None: ...

class ReplayedGroup(_message.Message):
    __slots__ = ("key", "left", "outcome")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    key: str
    left: bool
    outcome: str
    def __init__(self, key: _Optional[str] = ..., left: bool = ..., outcome: _Optional[str] = ...) -> None: ...

class PurgeQuarantineRequest(_message.Message):
    __slots__ = ("keys", "fleet")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    fleet: str
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., fleet: _Optional[str] = ...) -> None: ...

class PurgeQuarantineResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    def __init__(self, deleted: _Optional[int] = ...) -> None: ...

class ListIdentitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIdentitiesResponse(_message.Message):
    __slots__ = ("identities",)
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    identities: _containers.RepeatedCompositeFieldContainer[Identity]
    def __init__(self, identities: _Optional[_Iterable[_Union[Identity, _Mapping]]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("name", "roles", "tokens", "sans", "added", "drained")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SANS_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    name: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    tokens: int
    sans: _containers.RepeatedScalarFieldContainer[str]
    added: bool
    drained: bool
    def __init__(self, name: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., tokens: _Optional[int] = ..., sans: _Optional[_Iterable[str]] = ..., added: bool = ..., drained: bool = ...) -> None: ...

class AddIdentityRequest(_message.Message):
    __slots__ = ("name", "roles", "sans", "token_sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    SANS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    sans: _containers.RepeatedScalarFieldContainer[str]
    token_sha256: str
    def __init__(self, name: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., sans: _Optional[_Iterable[str]] = ..., token_sha256: _Optional[str] = ...) -> None: ...

class AddIdentityResponse(_message.Message):
    __slots__ = ("identity",)
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    identity: Identity
    def __init__(self, identity: _Optional[_Union[Identity, _Mapping]] = ...) -> None: ...

class RevokeIdentityRequest(_message.Message):
    __slots__ = ("name", "older_tokens")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OLDER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    name: str
    older_tokens: bool
    def __init__(self, name: _Optional[str] = ..., older_tokens: bool = ...) -> None: ...

class RevokeIdentityResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ListedVersion]
    def __init__(self, versions: _Optional[_Iterable[_Union[ListedVersion, _Mapping]]] = ...) -> None: ...

class ListedVersion(_message.Message):
    __slots__ = ("policy", "run_by", "pinned", "best")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RUN_BY_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    policy: _rollout_pb2.Policy
    run_by: _containers.RepeatedScalarFieldContainer[str]
    pinned: bool
    best: bool
    def __init__(self, policy: _Optional[_Union[_rollout_pb2.Policy, _Mapping]] = ..., run_by: _Optional[_Iterable[str]] = ..., pinned: bool = ..., best: bool = ...) -> None: ...

class ListEvaluationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations",)
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[_rollout_pb2.Evaluation]
    def __init__(self, evaluations: _Optional[_Iterable[_Union[_rollout_pb2.Evaluation, _Mapping]]] = ...) -> None: ...

class ListGroupsRequest(_message.Message):
    __slots__ = ("fleet", "limit")
    FLEET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    fleet: str
    limit: int
    def __init__(self, fleet: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListedGroup(_message.Message):
    __slots__ = ("fleet", "group")
    FLEET_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    fleet: str
    group: _rollout_pb2.Group
    def __init__(self, fleet: _Optional[str] = ..., group: _Optional[_Union[_rollout_pb2.Group, _Mapping]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("pause", "resume", "checkpoint", "publish", "finish", "rollback", "set", "unset", "pin", "unpin", "drain", "undrain", "backup")
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    UNPIN_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    UNDRAIN_FIELD_NUMBER: _ClassVar[int]
    BACKUP_FIELD_NUMBER: _ClassVar[int]
    pause: Pause
    resume: Resume
    checkpoint: SaveCheckpoint
    publish: PublishVersion
    finish: Finish
    rollback: RollBack
    set: SetSettings
    unset: UnsetSettings
    pin: PinVersion
    unpin: UnpinVersion
    drain: DrainFleet
    undrain: UndrainFleet
    backup: BackUp
    def __init__(self, pause: _Optional[_Union[Pause, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., checkpoint: _Optional[_Union[SaveCheckpoint, _Mapping]] = ..., publish: _Optional[_Union[PublishVersion, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., rollback: _Optional[_Union[RollBack, _Mapping]] = ..., set: _Optional[_Union[SetSettings, _Mapping]] = ..., unset: _Optional[_Union[UnsetSettings, _Mapping]] = ..., pin: _Optional[_Union[PinVersion, _Mapping]] = ..., unpin: _Optional[_Union[UnpinVersion, _Mapping]] = ..., drain: _Optional[_Union[DrainFleet, _Mapping]] = ..., undrain: _Optional[_Union[UndrainFleet, _Mapping]] = ..., backup: _Optional[_Union[BackUp, _Mapping]] = ...) -> None: ...

class Pause(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Resume(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SaveCheckpoint(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PublishVersion(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Finish(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RollBack(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class SetSettings(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, str]
    def __init__(self, values: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UnsetSettings(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class PinVersion(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class UnpinVersion(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class DrainFleet(_message.Message):
    __slots__ = ("fleet",)
    FLEET_FIELD_NUMBER: _ClassVar[int]
    fleet: str
    def __init__(self, fleet: _Optional[str] = ...) -> None: ...

class UndrainFleet(_message.Message):
    __slots__ = ("fleet",)
    FLEET_FIELD_NUMBER: _ClassVar[int]
    fleet: str
    def __init__(self, fleet: _Optional[str] = ...) -> None: ...

class BackUp(_message.Message):
    __slots__ = ("uri", "keep", "final")
    URI_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    uri: str
    keep: int
    final: bool
    def __init__(self, uri: _Optional[str] = ..., keep: _Optional[int] = ..., final: bool = ...) -> None: ...

class RequestChangeRequest(_message.Message):
    __slots__ = ("request_id", "change")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    change: Change
    def __init__(self, request_id: _Optional[str] = ..., change: _Optional[_Union[Change, _Mapping]] = ...) -> None: ...

class RequestChangeResponse(_message.Message):
    __slots__ = ("change",)
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    change: RecordedChange
    def __init__(self, change: _Optional[_Union[RecordedChange, _Mapping]] = ...) -> None: ...

class ListChangesRequest(_message.Message):
    __slots__ = ("after", "request_id")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    after: int
    request_id: str
    def __init__(self, after: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListChangesResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[RecordedChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[RecordedChange, _Mapping]]] = ...) -> None: ...

class RecordedChange(_message.Message):
    __slots__ = ("number", "request_id", "operator", "requested_at", "change", "state", "reason", "settled_at", "step", "old_values", "new_values")
    class OldValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class NewValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SETTLED_AT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OLD_VALUES_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUES_FIELD_NUMBER: _ClassVar[int]
    number: int
    request_id: str
    operator: str
    requested_at: _timestamp_pb2.Timestamp
    change: Change
    state: ChangeState
    reason: str
    settled_at: _timestamp_pb2.Timestamp
    step: int
    old_values: _containers.ScalarMap[str, str]
    new_values: _containers.ScalarMap[str, str]
    def __init__(self, number: _Optional[int] = ..., request_id: _Optional[str] = ..., operator: _Optional[str] = ..., requested_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., change: _Optional[_Union[Change, _Mapping]] = ..., state: _Optional[_Union[ChangeState, str]] = ..., reason: _Optional[str] = ..., settled_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[int] = ..., old_values: _Optional[_Mapping[str, str]] = ..., new_values: _Optional[_Mapping[str, str]] = ...) -> None: ...
