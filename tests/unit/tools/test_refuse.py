"""Tests that the machine cannot run: skipped, or failed where a missing tool is not allowed; nothing is skipped unseen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.refuse import MissingTool, missing, refuse

ROOT = Path(__file__).parents[3]
# Files that skip by themselves, for what a machine cannot help; all others say what they need with tests/tools/refuse.py.
BY_DESIGN = {
    "tests/chaos/test_chaos.py",  # the right to mount a file system
    "tests/deploy/test_gateway_closure.py",  # a package index
    "tests/deploy/test_gateway_image.py",  # root, and an image's base from a registry
    "tests/e2e/test_data.py",  # a data set beside the repository
    "tests/e2e/test_endpoint.py",  # virtualenvs of agents: make agents
    "tests/gpu/test_bfloat16.py",  # a GPU; TransformerEngine
    "tests/gpu/test_equivalence.py",
    "tests/gpu/test_kernels.py",
    "tests/gpu/test_late_queries.py",
    "tests/service/test_redis_trust.py",  # a redis-server with TLS
    "tests/tools/adapted_tasks.py",  # virtualenvs of agents
    "tests/unit/rollout/tasks/dataset/test_parquet_files.py",  # a data set
    "tests/unit/rollout/tasks/dataset/test_task.py",
    "tests/unit/runtime/test_allocator.py",  # glibc
}
SKIPS = re.compile(r"pytest\.skip\(|mark\.skip|importorskip\(")
SUITE = """
import pytest
from tests.tools.refuse import MissingTool, needs, refuse

@needs(MissingTool("not installed: frobnicate"))
def test_tool(): pass

@needs("no GPU")
def test_device(): pass

@needs(None)
def test_nothing(): pass

def test_inside(): refuse("no network")
"""


def test_a_tool_that_is_there_is_not_missing():
    assert missing("sh", "env") is None
    assert missing("sh", "no-such-program", "nor-this-one") == "not installed: no-such-program, nor-this-one"


@pytest.mark.parametrize(
    ("strict", "reason", "outcome"),
    [
        ("1", MissingTool("not installed: x"), pytest.fail.Exception),
        ("0", MissingTool("not installed: x"), pytest.skip.Exception),
        ("1", "no GPU", pytest.skip.Exception),
    ],
)
def test_only_a_missing_tool_is_a_failure_and_only_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, strict: str, reason: str, outcome: type[BaseException]
):
    monkeypatch.setenv("LEEWAY_TEST_STRICT", strict)
    with pytest.raises(outcome, match=reason):
        refuse(reason)


@pytest.mark.parametrize(("strict", "summary"), [("1", "1 passed, 2 skipped, 1 error"), ("", "1 passed, 3 skipped")])
def test_marked_tests_and_their_reasons(tmp_path: Path, strict: str, summary: str):
    suite, reasons = tmp_path / "test_suite.py", tmp_path / "reasons"
    suite.write_text(SUITE)
    environment = {**os.environ, "LEEWAY_TEST_STRICT": strict, "LEEWAY_TEST_SKIPPED": str(reasons)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", "-p", "no:cacheprovider", str(suite)]
    done = subprocess.run(
        [*command, f"--rootdir={ROOT}", f"--basetemp={tmp_path / 'base'}", "-c", str(ROOT / "pyproject.toml")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert summary in done.stdout, done.stdout + done.stderr
    assert sorted(reasons.read_text().splitlines()) == [
        "no GPU", "no network", *([] if strict else ["not installed: frobnicate"])
    ]  # fmt: skip


def skipping(text: Callable[[Path], str]) -> set[str]:
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in ("refuse.py", "test_refuse.py")]
    return {str(path.relative_to(ROOT)) for path in files if SKIPS.search(text(path))}


def test_every_other_test_says_what_it_needs_so_that_a_missing_tool_is_seen():
    assert skipping(lambda path: path.read_text()) <= BY_DESIGN


def test_a_skip_beside_the_helper_is_found():
    line = '@pytest.mark.skipif(shutil.which("promtool") is None, reason="")'
    assert "tests/deploy/test_alerts.py" in skipping(lambda path: line)
