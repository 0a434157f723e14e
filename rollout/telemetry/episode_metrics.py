"""The Prometheus metrics of episodes."""

from __future__ import annotations

from rollout.episodes.observer import CALL_OUTCOMES, PARSE_FAILURES, CallOutcome, ParseFailure
from rollout.episodes.record import OPENINGS, Opening
from rollout.generation.episode_player import EPISODE_ENDS, EpisodeEnd
from runtime.metric_registry import MetricRegistry

_PARAMETERS = ("max_tokens",)


class EpisodeMetrics:
    """Counts episodes and what happens in them; an ``EpisodeObserver`` and an ``EpisodeEndObserver``.

    Args:
        registry: where the metrics are declared.
    """

    def __init__(self, registry: MetricRegistry) -> None:
        self._episodes = registry.counter(
            "leeway_worker_episodes_total",
            "Episodes that have ended: scored, unscored (sent without a reward), played_again (their process died).",
            ("outcome",),
        )
        self._turns = registry.counter("leeway_worker_episode_turns_total", "Generations of episodes that have ended.")
        self._calls = registry.counter(
            "leeway_worker_episode_calls_total",
            "Calls within episodes, by how they ended: answered, limit (of the episode), cancelled, failed.",
            ("outcome",),
        )
        self._segments = registry.counter(
            "leeway_worker_segments_total", "Segments of episodes, by the reason why they were opened.", ("opening",)
        )
        self._unparsed = registry.counter(
            "leeway_worker_unparsed_answers_total",
            "Parts of answers that stay text because they cannot be read as what they seem to be, by what is wrong.",
            ("failure",),
        )
        self._overridden = registry.counter(
            "leeway_worker_episode_overridden_total",
            "Limits on tokens in calls of agents that the worker's settings have overridden.",
            ("parameter",),
        )
        self._dropped = registry.counter(
            "leeway_worker_dropped_answers_total", "Answers that are in no record because their call was made again."
        )
        declared = (
            (self._episodes, EPISODE_ENDS),
            (self._calls, CALL_OUTCOMES),
            (self._segments, OPENINGS),
            (self._unparsed, PARSE_FAILURES),
            (self._overridden, _PARAMETERS),
        )
        for counter, labels in declared:
            for label in labels:
                counter.labels(label)

    def episode_ended(self, end: EpisodeEnd, turns: int) -> None:
        """Counts an episode and its turns."""
        self._episodes.labels(end).inc()
        self._turns.inc(turns)

    def call_ended(self, outcome: CallOutcome) -> None:
        """Counts a call."""
        self._calls.labels(outcome).inc()

    def segment_opened(self, opening: Opening) -> None:
        """Counts a segment."""
        self._segments.labels(opening).inc()

    def parse_failed(self, failure: ParseFailure) -> None:
        """Counts a part of an answer that stays text."""
        self._unparsed.labels(failure).inc()

    def overridden(self, parameter: str) -> None:
        """Counts a parameter that the worker's settings have overridden."""
        self._overridden.labels(parameter).inc()

    def answer_dropped(self) -> None:
        """Counts an answer that is in no record."""
        self._dropped.inc()
