"""Traces that follow one group from its prompt to the version that contains it (OpenTelemetry, OTLP over HTTP).

Which groups: decided by the group's id alone (its random bits against `traces.sample`), so that every process of a run
decides alike, and one with a smaller share traces a subset of the others' groups. The trace's id is the group's id without
its dashes.

What a trace contains: spans "group", "generate", "reward" and "submit" of the worker; "validate" and "append" of the gateway;
"queue", "train", "commit" and "publish" of the learner. A step trains many groups and a version contains many: each traced
group has its own span of them, with the same times, because a trace is read as one tree; groups that are not traced have
none. Versions have traces of their own, "version" with a "refit" for every engine that loads it; a group's "publish" span is
linked to its version's.

How it travels: as W3C `traceparent` in the group's metadata, up to the learner. A version's ids follow from the digest of its
manifest, which learner and workers both know: nothing more need be sent.

With traces off, nothing of OpenTelemetry is imported and `start` returns None. With traces on, spans wait in a bounded queue,
a thread of its own sends them, and what a collector does not take is dropped: neither rollouts nor training ever wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.endpoint_config import TraceConfig
from runtime.settings import SettingsError

if TYPE_CHECKING:
    from runtime.tracer import Tracer


def start(config: TraceConfig, process: str, run: str) -> Tracer | None:
    """Makes a tracer when ``traces.endpoint`` is set; returns None, and imports nothing, when it is not.

    Args:
        config: the section ``traces``.
        process: "gateway", "learner", "worker-0", ...
        run: the run's name.

    Raises:
        SettingsError: the packages for it are not installed.
    """
    if config.endpoint is None:
        return None
    try:
        from runtime.tracer import Tracer
    except ImportError as error:
        raise SettingsError(
            f"traces.endpoint = {config.endpoint!r}: OpenTelemetry is not installed here ({error}): "
            'pip install "leeway[traces]", or remove the endpoint'
        ) from error
    return Tracer(config.endpoint, config.sample, process, run)
