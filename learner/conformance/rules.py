"""The rules of the contract that a conformance run tries, in words."""

from __future__ import annotations

FLEET_RULES = {
    "credentials": 'every call carries "authorization: Bearer <token>", with the token it was given',
    "describe": "it asks DescribeRun before its first group",
    "valid": "every group obeys the contract and the limits that DescribeRun tells",
    "versions": "spans name versions that were announced to it",
    "sequence": "sequences are unique within a stream",
    "lease": "it asks for leases, and sends no more groups under one than were granted",
    "lease_pause": "where a lease grants 0 groups it waits for retry_after_ms before it asks again",
    "lease_again": "it asks again when Lease fails with UNAVAILABLE",
    "retry": "a group with RETRY is sent again, the same one, not before retry_after_ms",
    "resend": "groups without an ack when a stream breaks are sent again, the same ones",
    "same_id": "a group that is sent again has the id and the content that it had",
    "duplicate": "DUPLICATE counts as success: the group is not sent again",
    "accepted": "a group with ACCEPTED is not sent again",
    "rejected": "a group with REJECTED is not sent again",
    "newer": "it generates with a newer version some time after that was announced",
    "finished": "it sends no new group and ends once it is told that the run has finished",
}

GATEWAY_RULES = {
    "unauthenticated": "calls without credentials, or with unknown ones, end with UNAUTHENTICATED",
    "describe": "DescribeRun answers with sensible sizes, ranges and limits",
    "policy": "WatchPolicy sends the newest version at once",
    "role": "ListLedgers needs the role operate: PERMISSION_DENIED for a fleet",
    "evaluate": "ReportEvaluation needs the role evaluate: PERMISSION_DENIED for a fleet",
    "lease": "Lease grants at most what was asked for, or 0 with retry_after_ms",
    "invalid_call": "a call that breaks a limit ends with INVALID_ARGUMENT",
    "accepted": "a valid group gets one ack, ACCEPTED, with its sequence and id",
    "duplicate": "a group that was accepted and comes again is a DUPLICATE",
    "several": "a message with several groups gives each of them its own ack",
    "segments": "a response of several segments is taken",
    "unscored": "a group with an unscored response is taken",
    "rejected": "a bad group is REJECTED with reason, field and value",
    "stream_lives": "a bad group does not break the stream",
    "half_close": "after a half-close every group still gets its ack, and the call ends with OK",
    "too_large": "a message above max_message_bytes ends with RESOURCE_EXHAUSTED, without retry-after-ms",
    "compression": "compressed messages are refused",
    "ledger": "the ledger counts exactly what was sent, and balances",
}
