from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_ACCEPTED: _ClassVar[Outcome]
    OUTCOME_DUPLICATE: _ClassVar[Outcome]
    OUTCOME_REJECTED: _ClassVar[Outcome]
    OUTCOME_RETRY: _ClassVar[Outcome]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_ABORT: _ClassVar[FinishReason]

class Measure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEASURE_UNSPECIFIED: _ClassVar[Measure]
    MEASURE_LENGTH: _ClassVar[Measure]
    MEASURE_REWARD: _ClassVar[Measure]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_ACCEPTED: Outcome
OUTCOME_DUPLICATE: Outcome
OUTCOME_REJECTED: Outcome
OUTCOME_RETRY: Outcome
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_ABORT: FinishReason
MEASURE_UNSPECIFIED: Measure
MEASURE_LENGTH: Measure
MEASURE_REWARD: Measure

class SubmitRequest(_message.Message):
    __slots__ = ("sequence", "group", "lease_id", "more")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    group: Group
    lease_id: str
    more: _containers.RepeatedCompositeFieldContainer[SubmitRequest]
    def __init__(self, sequence: _Optional[int] = ..., group: _Optional[_Union[Group, _Mapping]] = ..., lease_id: _Optional[str] = ..., more: _Optional[_Iterable[_Union[SubmitRequest, _Mapping]]] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("acks",)
    ACKS_FIELD_NUMBER: _ClassVar[int]
    acks: _containers.RepeatedCompositeFieldContainer[Ack]
    def __init__(self, acks: _Optional[_Iterable[_Union[Ack, _Mapping]]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("sequence", "group_id", "outcome", "reason", "field", "value", "retry_after_ms")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    group_id: str
    outcome: Outcome
    reason: str
    field: str
    value: str
    retry_after_ms: int
    def __init__(self, sequence: _Optional[int] = ..., group_id: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("group_id", "prompt_id", "prompt_tokens", "task", "responses", "temperature", "created_at", "metadata", "sampling")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    prompt_id: str
    prompt_tokens: bytes
    task: str
    responses: _containers.RepeatedCompositeFieldContainer[Response]
    temperature: float
    created_at: _timestamp_pb2.Timestamp
    metadata: _containers.ScalarMap[str, str]
    sampling: Sampling
    def __init__(self, group_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., prompt_tokens: _Optional[bytes] = ..., task: _Optional[str] = ..., responses: _Optional[_Iterable[_Union[Response, _Mapping]]] = ..., temperature: _Optional[float] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("top_p", "top_k", "min_p")
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    top_p: float
    top_k: int
    min_p: float
    def __init__(self, top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("tokens", "reward", "finish_reason", "spans", "reward_parts", "segments", "unscored", "routed_experts")
    class RewardPartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    REWARD_PARTS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    UNSCORED_FIELD_NUMBER: _ClassVar[int]
    ROUTED_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    tokens: bytes
    reward: float
    finish_reason: FinishReason
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    reward_parts: _containers.ScalarMap[str, float]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    unscored: str
    routed_experts: RoutedExperts
    def __init__(self, tokens: _Optional[bytes] = ..., reward: _Optional[float] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., reward_parts: _Optional[_Mapping[str, float]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., unscored: _Optional[str] = ..., routed_experts: _Optional[_Union[RoutedExperts, _Mapping]] = ...) -> None: ...

class RoutedExperts(_message.Message):
    __slots__ = ("layers", "top_k", "experts", "start", "ids")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedScalarFieldContainer[int]
    top_k: int
    experts: int
    start: int
    ids: bytes
    def __init__(self, layers: _Optional[_Iterable[int]] = ..., top_k: _Optional[int] = ..., experts: _Optional[int] = ..., start: _Optional[int] = ..., ids: _Optional[bytes] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("context_tokens", "tokens", "spans", "routed_experts")
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    ROUTED_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    context_tokens: bytes
    tokens: bytes
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    routed_experts: RoutedExperts
    def __init__(self, context_tokens: _Optional[bytes] = ..., tokens: _Optional[bytes] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., routed_experts: _Optional[_Union[RoutedExperts, _Mapping]] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("version", "start", "end")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    version: int
    start: int
    end: int
    def __init__(self, version: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("groups", "worker", "running_version", "returned_lease_ids", "held_lease_ids", "fetching_version")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    RUNNING_VERSION_FIELD_NUMBER: _ClassVar[int]
    RETURNED_LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    HELD_LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    FETCHING_VERSION_FIELD_NUMBER: _ClassVar[int]
    groups: int
    worker: str
    running_version: int
    returned_lease_ids: _containers.RepeatedScalarFieldContainer[str]
    held_lease_ids: _containers.RepeatedScalarFieldContainer[str]
    fetching_version: int
    def __init__(self, groups: _Optional[int] = ..., worker: _Optional[str] = ..., running_version: _Optional[int] = ..., returned_lease_ids: _Optional[_Iterable[str]] = ..., held_lease_ids: _Optional[_Iterable[str]] = ..., fetching_version: _Optional[int] = ...) -> None: ...

class LeaseResponse(_message.Message):
    __slots__ = ("lease_id", "groups", "expires_in_ms", "retry_after_ms", "lost_lease_ids")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    LOST_LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    groups: int
    expires_in_ms: int
    retry_after_ms: int
    lost_lease_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease_id: _Optional[str] = ..., groups: _Optional[int] = ..., expires_in_ms: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., lost_lease_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchPolicyRequest(_message.Message):
    __slots__ = ("known_version",)
    KNOWN_VERSION_FIELD_NUMBER: _ClassVar[int]
    known_version: int
    def __init__(self, known_version: _Optional[int] = ...) -> None: ...

class WatchPolicyResponse(_message.Message):
    __slots__ = ("policy", "finished")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    finished: bool
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., finished: bool = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("version", "step", "epoch", "uri", "manifest_sha256", "published_at", "locations")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_FIELD_NUMBER: _ClassVar[int]
    LOCATIONS_FIELD_NUMBER: _ClassVar[int]
    version: int
    step: int
    epoch: int
    uri: str
    manifest_sha256: str
    published_at: _timestamp_pb2.Timestamp
    locations: _containers.RepeatedCompositeFieldContainer[Location]
    def __init__(self, version: _Optional[int] = ..., step: _Optional[int] = ..., epoch: _Optional[int] = ..., uri: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., published_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., locations: _Optional[_Iterable[_Union[Location, _Mapping]]] = ...) -> None: ...

class Location(_message.Message):
    __slots__ = ("name", "uri")
    NAME_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    name: str
    uri: str
    def __init__(self, name: _Optional[str] = ..., uri: _Optional[str] = ...) -> None: ...

class DescribeRunRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeRunResponse(_message.Message):
    __slots__ = ("run", "contract_revision", "vocab_size", "min_group_size", "max_group_size", "min_reward", "max_reward", "min_temperature", "max_temperature", "max_prompt_tokens", "max_response_tokens", "max_response_context_tokens", "max_message_bytes", "takes_truncated_sampling", "wanted", "max_staleness", "expire_after", "finished", "routing", "adapters")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_REVISION_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_REWARD_FIELD_NUMBER: _ClassVar[int]
    MAX_REWARD_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TAKES_TRUNCATED_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    run: str
    contract_revision: int
    vocab_size: int
    min_group_size: int
    max_group_size: int
    min_reward: float
    max_reward: float
    min_temperature: float
    max_temperature: float
    max_prompt_tokens: int
    max_response_tokens: int
    max_response_context_tokens: int
    max_message_bytes: int
    takes_truncated_sampling: bool
    wanted: Wanted
    max_staleness: int
    expire_after: int
    finished: bool
    routing: RoutedExperts
    adapters: AdapterForm
    def __init__(self, run: _Optional[str] = ..., contract_revision: _Optional[int] = ..., vocab_size: _Optional[int] = ..., min_group_size: _Optional[int] = ..., max_group_size: _Optional[int] = ..., min_reward: _Optional[float] = ..., max_reward: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ..., max_prompt_tokens: _Optional[int] = ..., max_response_tokens: _Optional[int] = ..., max_response_context_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., takes_truncated_sampling: bool = ..., wanted: _Optional[_Union[Wanted, _Mapping]] = ..., max_staleness: _Optional[int] = ..., expire_after: _Optional[int] = ..., finished: bool = ..., routing: _Optional[_Union[RoutedExperts, _Mapping]] = ..., adapters: _Optional[_Union[AdapterForm, _Mapping]] = ...) -> None: ...

class AdapterForm(_message.Message):
    __slots__ = ("rank", "targets")
    RANK_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    rank: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rank: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("temperature", "prompt_format", "group_size", "max_new_tokens", "routed_experts")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUTED_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    prompt_format: str
    group_size: int
    max_new_tokens: int
    routed_experts: bool
    def __init__(self, temperature: _Optional[float] = ..., prompt_format: _Optional[str] = ..., group_size: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., routed_experts: bool = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("version", "name", "sampling", "prompts", "samples", "unscored", "metrics", "seconds", "measured_at")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Interval
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    UNSCORED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_AT_FIELD_NUMBER: _ClassVar[int]
    version: int
    name: str
    sampling: str
    prompts: int
    samples: int
    unscored: int
    metrics: _containers.MessageMap[str, Interval]
    seconds: float
    measured_at: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[int] = ..., name: _Optional[str] = ..., sampling: _Optional[str] = ..., prompts: _Optional[int] = ..., samples: _Optional[int] = ..., unscored: _Optional[int] = ..., metrics: _Optional[_Mapping[str, Interval]] = ..., seconds: _Optional[float] = ..., measured_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class ReportEvaluationRequest(_message.Message):
    __slots__ = ("evaluation",)
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    evaluation: Evaluation
    def __init__(self, evaluation: _Optional[_Union[Evaluation, _Mapping]] = ...) -> None: ...

class ReportEvaluationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLedgerRequest(_message.Message):
    __slots__ = ("fleet",)
    FLEET_FIELD_NUMBER: _ClassVar[int]
    fleet: str
    def __init__(self, fleet: _Optional[str] = ...) -> None: ...

class GetLedgerResponse(_message.Message):
    __slots__ = ("ledger",)
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    ledger: Ledger
    def __init__(self, ledger: _Optional[_Union[Ledger, _Mapping]] = ...) -> None: ...

class ListLedgersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListLedgersResponse(_message.Message):
    __slots__ = ("ledgers",)
    LEDGERS_FIELD_NUMBER: _ClassVar[int]
    ledgers: _containers.RepeatedCompositeFieldContainer[Ledger]
    def __init__(self, ledgers: _Optional[_Iterable[_Union[Ledger, _Mapping]]] = ...) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("fleet", "received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "queued", "in_flight", "rejected_by_reason", "retried_by_reason", "lost", "vanished", "redelivered", "bytes", "queued_bytes", "quarantined", "given_up", "without_contrast", "unscored", "unscored_responses_by_reason", "histogram")
    class RejectedByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RetriedByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class UnscoredResponsesByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FLEET_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    REJECTED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    RETRIED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    VANISHED_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CONTRAST_FIELD_NUMBER: _ClassVar[int]
    UNSCORED_FIELD_NUMBER: _ClassVar[int]
    UNSCORED_RESPONSES_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    fleet: str
    received: int
    accepted: int
    duplicate: int
    rejected: int
    retried: int
    trained: int
    expired: int
    queued: int
    in_flight: int
    rejected_by_reason: _containers.ScalarMap[str, int]
    retried_by_reason: _containers.ScalarMap[str, int]
    lost: int
    vanished: int
    redelivered: int
    bytes: int
    queued_bytes: int
    quarantined: int
    given_up: int
    without_contrast: int
    unscored: int
    unscored_responses_by_reason: _containers.ScalarMap[str, int]
    histogram: _containers.RepeatedCompositeFieldContainer[Bucket]
    def __init__(self, fleet: _Optional[str] = ..., received: _Optional[int] = ..., accepted: _Optional[int] = ..., duplicate: _Optional[int] = ..., rejected: _Optional[int] = ..., retried: _Optional[int] = ..., trained: _Optional[int] = ..., expired: _Optional[int] = ..., queued: _Optional[int] = ..., in_flight: _Optional[int] = ..., rejected_by_reason: _Optional[_Mapping[str, int]] = ..., retried_by_reason: _Optional[_Mapping[str, int]] = ..., lost: _Optional[int] = ..., vanished: _Optional[int] = ..., redelivered: _Optional[int] = ..., bytes: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., quarantined: _Optional[int] = ..., given_up: _Optional[int] = ..., without_contrast: _Optional[int] = ..., unscored: _Optional[int] = ..., unscored_responses_by_reason: _Optional[_Mapping[str, int]] = ..., histogram: _Optional[_Iterable[_Union[Bucket, _Mapping]]] = ...) -> None: ...

class Bucket(_message.Message):
    __slots__ = ("measure", "outcome", "lower", "upper", "count")
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    measure: Measure
    outcome: str
    lower: float
    upper: float
    count: int
    def __init__(self, measure: _Optional[_Union[Measure, str]] = ..., outcome: _Optional[str] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...
