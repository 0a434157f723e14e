"""`python -m tests.fuzz.messages --count N --seed S`: hostile messages against what a gateway does with a message.

Each goes through the gateway's own parser, the submit handler (validation, measuring, quarantine) and the lease
check. A message may hold several groups; they are what is accepted or rejected. Looked for: an exception other than
MalformedError, an accepted group that breaks the contract by the reference validator, wrong sizes in the account, and memory
that grows. Exit status 1 when one is found; the message is printed, in hexadecimal, with its seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from learner.config import AdmissionConfig, LimitsConfig
from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.auth import parse_identity
from learner.gateway.identity_changes import KnownIdentities
from learner.gateway.operator_audit import described
from learner.gateway.parsing import MalformedError, parse, parse_submit
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.request_errors import InvalidRequestError
from learner.gateway.service import lease_problem
from learner.gateway.submit_handler import SubmitHandler
from learner.gateway.validation import GroupRules
from learner.gateway.version_ages import VersionAges
from learner.queue import Append
from learner.queue.identity_registry import AddedIdentity
from leeway.v1 import operator_pb2 as op
from leeway.v1 import rollout_pb2 as pb
from runtime.settings import SettingsError
from tests.fuzz.mutations import STALE, VERSIONS, Corpus
from tests.fuzz.reference import lease_problems, problems

LIMITS = LimitsConfig(
    vocab_size=100,
    group_size=(2, 8),
    max_prompt_tokens=8,
    max_response_tokens=16,
    max_response_context_tokens=32,
    reward_range=(-10, 10),
)
_CALLS = (
    pb.LeaseRequest, pb.WatchPolicyRequest, pb.DescribeRunRequest, pb.GetLedgerRequest, pb.ListLedgersRequest,
    pb.ReportEvaluationRequest,
    *(getattr(op, method.input_type.name) for method in op.DESCRIPTOR.services_by_name["OperatorService"].methods),
)  # fmt: skip
_ROOT = {"root": AddedIdentity(("0" * 64,), (), ("operate",))}
_EXPIRE_AFTER = 9
_BATCH = 20_000
_WARM = 40_000  # messages of a process before its memory is looked at
_GIANT_EVERY = 5_000
_MOST_GROWTH_MIB = 16.0


class FoundError(AssertionError):
    """A failure found by fuzzing. The message contains what is needed to reproduce it."""


class _Policies:
    """Policies of a run whose versions are VERSIONS and STALE; there are no newer ones to be read."""

    known = frozenset((*VERSIONS, STALE))
    finished = False

    def __init__(self) -> None:
        self.ages = VersionAges(_EXPIRE_AFTER)
        steps = {STALE: 0} | {version: 10 + version for version in VERSIONS}
        self.ages.add([pb.Policy(version=version, step=step, epoch=1) for version, step in sorted(steps.items())])

    async def refresh(self) -> None:
        pass


class _BatchWriter:
    """Keeps the last pending submit."""

    last: PendingSubmit

    def put(self, submit: PendingSubmit) -> None:
        self.last = submit

    async def knows(self, fleet: str, group_id: str) -> bool:
        return False


class Target:
    """The part of a gateway that handles a message, without network and Redis.

    Attributes:
        outcomes: outcome -> number of groups, or of undecodable messages.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._batch_writer = _BatchWriter()
        no_rates: Any = None
        no_leases: Any = None
        stand_ins: Any = (_Policies(), AdmissionGate(AdmissionConfig(), no_rates, no_leases), self._batch_writer)
        self._handler = SubmitHandler(GroupRules(LIMITS, 86_400), *stand_ins, quarantine=True)

    def submit(self, message: bytes) -> list[str]:
        """Submits a message; returns "undecodable", or "accepted" or "rejected" for each group. Raises FoundError."""
        try:
            outcomes = self._submit(message)
        except FoundError as error:
            raise FoundError(f"{error}: message {message.hex()}") from error
        except Exception as error:
            raise FoundError(f"{type(error).__name__}: {error}: message {message.hex()}") from error
        self.outcomes.update(outcomes)
        return outcomes

    def call(self, message: bytes) -> None:
        """Parses a message as each of the other requests. Raises FoundError."""
        try:
            for kind in _CALLS:
                self._call(kind, message)
        except Exception as error:
            raise FoundError(f"{type(error).__name__}: {error}: call {message.hex()}") from error

    def _call(self, kind: type[Any], message: bytes) -> None:
        try:
            request = parse(kind, message)
        except MalformedError:
            return
        if isinstance(request, pb.LeaseRequest) and lease_problem(request) is None:
            self._require_lease(request, message)
        if isinstance(request, op.AddIdentityRequest):
            with contextlib.suppress(InvalidRequestError):
                self._require_identity(KnownIdentities({}, _ROOT).addition(request), message)
        described(request)  # what the log would say of it

    def _require_identity(self, added: AddedIdentity, message: bytes) -> None:
        try:
            parse_identity("x", added)
        except SettingsError as error:
            raise FoundError(f"an identity passes that no gateway would know: {error}: call {message.hex()}") from error

    def _require_lease(self, request: pb.LeaseRequest, message: bytes) -> None:
        if found := lease_problems(request):
            raise FoundError(f"a request for a lease passes in spite of {', '.join(found)}: call {message.hex()}")

    def _submit(self, message: bytes) -> list[str]:
        try:
            requests = parse_submit(message)
        except MalformedError:
            return ["undecodable"]
        return [self._take(one) for one in requests]

    def _take(self, request: pb.SubmitRequest) -> str:
        _run(self._handler.take("fuzz", request, lambda _: None))
        submit = self._batch_writer.last
        if submit.group is None:
            if submit.ack.outcome != pb.OUTCOME_REJECTED or not (submit.ack.reason and submit.ack.value):
                raise FoundError("neither taken nor rejected with a reason")
            json.loads(submit.quarantined)
            submit.ack.SerializeToString()
            return "rejected"
        payload = bytes(submit.group.payload)
        if found := problems(payload, LIMITS, VERSIONS):
            raise FoundError(f"accepted in spite of {', '.join(found)}")
        _require_measured(submit.group, pb.Group.FromString(payload))
        return "accepted"


def _require_measured(append: Append, group: pb.Group) -> None:
    generated = trained_on = 0
    for response in group.responses:
        if response.segments:
            context = sum(len(segment.context_tokens) // 4 for segment in response.segments)
            own = sum(len(segment.tokens) // 4 for segment in response.segments)
        else:
            context, own = len(group.prompt_tokens) // 4, len(response.tokens) // 4
        generated, trained_on = generated + own, trained_on + context + own
    measured = (append.group_id, append.tokens, append.generated, append.responses)
    if measured != (group.group_id, trained_on, generated, len(group.responses)):
        raise FoundError(f"measured {measured}")
    versions = {
        span.version for response in group.responses for part in (response, *response.segments) for span in part.spans
    }
    if set(append.versions) != {min(versions), max(versions)}:
        raise FoundError(f"versions {append.versions} of {versions}")
    _require_counted(append, group)


def _require_counted(append: Append, group: pb.Group) -> None:
    """Checks the mean reward, what the ledger will count the group as, and its unscored responses."""
    rewards = [response.reward for response in group.responses if not response.unscored]
    mean = sum(rewards) / len(rewards) if rewards else None
    kind = "unscored" if len(rewards) < 2 else "" if min(rewards) < max(rewards) else "without_contrast"
    reasons = Counter(response.unscored for response in group.responses if response.unscored)
    if (append.reward, append.kind, dict(append.unscored)) != (mean, kind, reasons):
        raise FoundError(f"counted as {append.kind!r}, reward {append.reward}, unscored {append.unscored}")


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that must not wait for anything. Raises FoundError if it does."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise FoundError("the intake waited for something")


def resident_mib() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Result:
    """Outcome of one process."""

    messages: int
    outcomes: Counter[str]
    start_mib: float  # after warming up
    end_mib: float


def run(count: int, seed: int, progress: Any = None) -> Result:
    """Submits ``count`` messages in this process. Raises FoundError."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[lambda *_: ""])
    target, corpus = Target(), Corpus(seed)
    start = resident_mib()
    for number in range(count):
        if number == min(_WARM, count // 2):
            start = resident_mib()
        message = corpus.giant() if number % _GIANT_EVERY == _GIANT_EVERY - 1 else corpus.next()
        try:
            target.submit(message)
            if number % 16 == 0:
                target.call(message)
                target.call(corpus.lease())
        except FoundError as error:
            raise FoundError(f"seed {seed}, message {number}: {error}") from error
        if progress is not None and number % _BATCH == _BATCH - 1:
            progress.put(_BATCH)
    return Result(count, target.outcomes, start, resident_mib())


def _process(count: int, seed: int, progress: Any, results: Any) -> None:
    try:
        results.put(run(count, seed, progress))
    except FoundError as error:
        results.put(str(error))


def main(arguments: list[str]) -> int:
    """Runs the processes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.messages", description=str(__doc__).splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="messages in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    progress, results = context.Queue(), context.Queue()
    shares = [options.count // options.processes] * options.processes
    shares[0] += options.count - sum(shares)
    workers = [
        context.Process(target=_process, args=(share, options.seed * 1000 + number, progress, results), daemon=True)
        for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    collected = _collect(workers, progress, results, options.count)
    return _conclude(collected)


def _collect(workers: list[Any], progress: Any, results: Any, count: int) -> list[Result | str]:
    """Shows progress about every ten seconds until each process has ended."""
    collected: list[Result | str] = []
    began, shown, done = time.monotonic(), 0.0, 0
    while len(collected) < len(workers):
        while not progress.empty():
            done += progress.get()
        while not results.empty():
            collected.append(results.get())
        elapsed = time.monotonic() - began
        if elapsed - shown > 10:
            shown = elapsed
            print(f"{done:>12,} of {count:,} messages, {done / elapsed:,.0f} per second", flush=True)
        if not any(worker.is_alive() for worker in workers) and results.empty() and len(collected) < len(workers):
            collected += ["a process has died"] * (len(workers) - len(collected))
        time.sleep(0.1)
    print(f"{count / (time.monotonic() - began):,.0f} messages per second", flush=True)
    return collected


def _conclude(collected: list[Result | str]) -> int:
    failures = [result for result in collected if isinstance(result, str)]
    for failure in failures:
        print(f"found: {failure}")
    results = [result for result in collected if isinstance(result, Result)]
    outcomes = sum((result.outcomes for result in results), Counter())
    for result in results:
        print(f"memory of a process: {result.start_mib:.1f} MiB at the start, {result.end_mib:.1f} MiB at the end")
    growth = max((result.end_mib - result.start_mib for result in results), default=0.0)
    print(
        f"messages={sum(result.messages for result in results)} accepted={outcomes['accepted']} "
        f"rejected={outcomes['rejected']} undecodable={outcomes['undecodable']} rss_growth_mib={growth:.1f}"
    )
    return 1 if failures or growth > _MOST_GROWTH_MIB else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
