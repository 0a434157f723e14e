"""Requests a change of a running service, and says what became of it."""

from __future__ import annotations

from collections.abc import Callable

from learner.cli.view.change_text import change_line
from learner.gateway.operator_client import OperatorClient
from learner.gateway.operator_target import OperatorError
from leeway.v1 import operator_pb2

# Exit statuses of commands that change a running service; 2 is an error of the command itself, as everywhere.
APPLIED, REFUSED, PENDING = 0, 1, 3
SETTLES_S = 600.0  # the longest step that is waited for, unless the user says otherwise
_AT_ONCE_S = 1.0  # what needs no long step is settled by then

Say = Callable[[str], None]


def request_change(client: OperatorClient, change: operator_pb2.Change, wait_s: float, tell: Say, note: Say) -> int:
    """Requests a change and waits for it.

    Args:
        client: an operator's.
        change: what to change.
        wait_s: seconds to wait for the learner; 0: do not wait.
        tell: called with the line that says what became of it.
        note: called with lines that say what is waited for.

    Returns:
        The exit status: APPLIED, REFUSED, or PENDING where the learner has not looked at it yet.

    Raises:
        OperatorError: the change cannot be requested, or the gateway is lost while it is waited for.
    """
    recorded = client.request(change)
    try:
        recorded = client.settled(recorded, min(wait_s, _AT_ONCE_S))
        if recorded.state == operator_pb2.CHANGE_STATE_PENDING and wait_s > _AT_ONCE_S:
            note(f"change {recorded.number}: waiting for the learner's next step, at most {wait_s:g} s")
            recorded = client.settled(recorded, wait_s - _AT_ONCE_S)
    except OperatorError:
        note(f"change {recorded.number} is requested, and goes on: leeway ctl log says what became of it")
        raise
    tell(change_line(recorded))
    if recorded.state == operator_pb2.CHANGE_STATE_PENDING:
        return PENDING
    return APPLIED if recorded.state == operator_pb2.CHANGE_STATE_APPLIED else REFUSED
