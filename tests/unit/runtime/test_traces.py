"""Which groups are traced, what travels between processes, and that traces cost nothing where they are off."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from rollout.client import new_group_id
from runtime import traces
from runtime.endpoint_config import TraceConfig
from runtime.settings import SettingsError
from runtime.trace_context import SpanContext

_NOWHERE = "http://127.0.0.1:9"


def tracer(sample: float = 1.0):
    made = traces.start(TraceConfig(endpoint=_NOWHERE, sample=sample), "worker-0", "run")
    assert made is not None
    return made


def test_off_means_none_and_not_one_import():
    code = (
        "import sys\nfrom runtime import traces\nfrom runtime.endpoint_config import TraceConfig\n"
        "assert traces.start(TraceConfig(), 'gateway', 'run') is None\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_not_installed_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "runtime.tracer", None)
    with pytest.raises(SettingsError, match=r"traces.endpoint = 'http://c:4318': .*pip install \"leeway\[traces\]\""):
        traces.start(TraceConfig(endpoint="http://c:4318"), "gateway", "run")


def test_the_share_is_kept_and_smaller_shares_are_subsets():
    ids = [new_group_id() for _ in range(4000)]
    many, few = tracer(0.5), tracer(0.05)
    traced = {group for group in ids if many.is_sampled(group)}
    rare = {group for group in ids if few.is_sampled(group)}
    assert 1800 < len(traced) < 2200
    assert 120 < len(rare) < 290
    assert rare <= traced
    assert not many.is_sampled("nonsense")
    assert all(tracer(1.0).is_sampled(group) for group in ids[:100])


def test_a_trace_has_its_groups_id_and_children_stay_in_it():
    one, group = tracer(), new_group_id()
    root = one.root("group", group, time.time_ns(), task="sort")
    assert root.context.trace_id == group.replace("-", "")
    child = one.child("generate", root.context)
    other = one.root("group", new_group_id(), time.time_ns())
    assert child.context.trace_id == root.context.trace_id
    assert child.context.span_id != root.context.span_id
    assert other.context.trace_id != root.context.trace_id
    assert SpanContext.parse(root.context.traceparent) == root.context


def test_a_versions_context_follows_from_its_digest():
    context = SpanContext.of_version("ab" * 32)
    assert context is not None
    assert context == SpanContext("ab" * 16, "ab" * 8)
    assert tracer().version(context, time.time_ns()).context == context
    assert SpanContext.of_version("") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 5000,
        f"00-{0:032x}-{1:016x}-01",
        f"00-{1:032x}-{0:016x}-01",
        f"00-{1:032x}-{1:016x}-00",
        f"00-{1:032x}-{1:016x}",
        f"01-{1:032x}-{1:016x}-01",
    ],
)
def test_what_is_no_sampled_traceparent_is_nobodys_context(text: str):
    assert SpanContext.parse(text) is None
    assert tracer().context_of(new_group_id(), text) is None
