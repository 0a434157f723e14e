"""What the endpoint tells whoever counts."""

from __future__ import annotations

from typing import Literal, Protocol

from rollout.endpoint.api_error import Api

Outcome = Literal["answered", "refused", "unauthorized", "over_limit", "hung_up", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "refused", "unauthorized", "over_limit", "hung_up", "failed")


class EndpointObserver(Protocol):
    """Counts calls and parameters that were not obeyed."""

    def called(self, api: Api, outcome: Outcome) -> None:
        """Counts a call that has ended.

        Args:
            api: whose form it had.
            outcome: answered; refused: it asks for what there is not; unauthorized: no open episode has its key; over_limit:
                a limit of the episode was reached; hung_up: the caller did not wait; failed: a fault here.
        """

    def overridden(self, parameter: str) -> None:
        """Counts a parameter of a call that the worker's settings have overridden."""
