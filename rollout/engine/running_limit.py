"""How many responses one engine may generate at once: more while it keeps up, half as many when it does not."""

from __future__ import annotations

from rollout.engine.load import EngineLoad

_FIRST = 32
_STEP = 4  # responses, at each look at an engine that keeps up
_FULL, _NEARLY_FULL = 0.95, 0.85  # of the KV cache: too much, and enough
_QUEUE_SHARE = 4  # more than a fourth as many waiting as running, twice in a row, is a queue and not an arrival


class RunningLimit:
    """Additive increase and multiplicative decrease of the responses under way on one engine.

    It doubles at each look until the first sign of overload, and grows by four from then on. It grows only while it is used
    up, and falls only when the fall before it has taken effect: running responses go on.

    Args:
        largest: never more than this.

    Attributes:
        value: the limit, at least 1.
    """

    def __init__(self, largest: int) -> None:
        self.value = min(_FIRST, largest)
        self._largest = largest
        self._doubles = True
        self._queued = 0  # looks in a row that found a queue

    def look(self, load: EngineLoad | None, responses: int) -> None:
        """Takes notice of the engine's load; call it about once a second.

        Args:
            load: None: the engine cannot say, and only its refusals count.
            responses: those under way on it from here.
        """
        if load is None:
            if self._doubles:
                self._grow(self._largest, self._largest)
            elif responses >= self.value:
                self._grow(self.value + _STEP, self._largest)
            return
        waits = load.waiting > max(1, load.running // _QUEUE_SHARE)
        self._queued = self._queued + 1 if waits else 0
        if load.retracted or load.usage >= _FULL or self._queued >= 2:
            self.refused(responses)
        elif not waits and load.usage < _NEARLY_FULL and responses >= self.value:
            self._grow(2 * self.value if self._doubles else self.value + _STEP, load.largest or self._largest)

    def refused(self, responses: int) -> None:
        """Takes notice that the engine has too much to do, with so many responses under way on it from here."""
        self._doubles = False
        if responses <= self.value:
            self.value = max(1, min(self.value, responses) // 2)
            self._queued = 0

    def _grow(self, wanted: int, most: int) -> None:
        self.value = max(self.value, min(wanted, most, self._largest))
