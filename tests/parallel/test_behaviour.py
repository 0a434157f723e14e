"""Log mu, recomputed under any layout, from memory or from disk, equals plain Hugging Face on the published weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from google.protobuf import json_format
from safetensors.torch import save_file

from leeway.v1 import rollout_pb2
from rollout.versions.verifier import Verifier
from tests.parallel.conftest import Outcome, Reference
from tests.parallel.reference import UNDECIDED, watch_routers

LAYOUTS = {
    "cached": {"world": 4, "parallel": {"tensor": 2, "pipeline": 2, "sequence": True}, "publishes": True},
    "read by two": {"world": 2, "parallel": {}, "publishes": False},
    "read, interleaved": {"world": 2, "parallel": {"pipeline": 2, "virtual_pipeline": 2}, "publishes": False},
    "read, context": {"world": 4, "parallel": {"context": 2, "pipeline": 2}, "publishes": False},
    "read again and again": {
        "world": 2,
        "parallel": {"tensor": 2},
        "publishes": False,
        "behaviour": {"cache_bytes": 0},
    },
}
# With experts. Of four data-parallel ranks, some have no token of a version, but must run their experts on others' tokens.
SHARED = {
    "cached": {"world": 4, "parallel": {"tensor": 2, "pipeline": 2, "sequence": True, "expert": 2}, "publishes": True},
    "read by one": {"world": 1, "parallel": {}, "publishes": False},
    "read again and again": {
        "world": 4,
        "parallel": {"expert": 4},
        "publishes": False,
        "behaviour": {"cache_bytes": 0},
    },
}
# Its limit is that of the whole step, of all micro-batches and data ranks: "read by two" has two of them, others have one.
MASKED_OVER_THE_STEP = {"name": "m2po", "m2po_over": "batch", "kl_coef": 0.1}
Rows = dict[int, list[tuple[int, int, float, float]]]


@pytest.mark.parametrize(
    ("model", "changes", "layouts"),
    [
        ("qwen3", {"published": "bfloat16"}, LAYOUTS),
        ("qwen2", {"published": "float32", "lora": {"rank": 8, "alpha": 24}}, LAYOUTS),
        ("moe", {"published": "float32"}, SHARED),
    ],
    ids=["qwen3", "adapters of qwen2", "moe"],
)
def test_recomputed_log_probabilities_are_those_of_the_published_weights(
    model: str,
    changes: dict[str, Any],
    layouts: dict[str, dict[str, Any]],
    references: dict[str, Reference],
    launch: Callable[[int, list[dict[str, Any]]], dict[str, Outcome]],
    tmp_path: Path,
):
    reference, versions = references[model], tmp_path / "weights"
    common = {
        "run": "recompute", "model": str(reference.directory), "sequences": str(reference.sequences), "lr": 3e-2,
        "versions": str(versions), "objective": MASKED_OVER_THE_STEP, **changes,
    }  # fmt: skip
    cases = launch(4, [{"name": name, **common, **layout} for name, layout in layouts.items()])
    sequences = json.loads(reference.sequences.read_text())
    expected = {version: _logp(path, sequences) for version, path in _published(versions, reference).items()}
    # Not vacuous: the versions disagree by far more than the error allowed below.
    assert (expected[0][5] - expected[1][5]).abs().max() > 0.1
    now = _logp_of(reference, cases["cached"].tensors("now"), tmp_path / "now", sequences)
    for name, outcome in cases.items():
        rows = _rows(outcome)
        assert sorted(rows) == list(range(len(sequences)))
        assert outcome.values["kept"], "the current weights have changed"
        for number, items in rows.items():
            assert [position for position, *_ in items] == _predicted(sequences[number])
            for position, version, log_mu, log_reference in items:
                exact = expected[version][number][position].item()
                assert log_mu == pytest.approx(exact, abs=2e-5), (name, number, position)
                assert log_reference == pytest.approx(expected[0][number][position].item(), abs=2e-5), (name, number)
        assert {version for _, version, *_ in rows[3]} == {0, 1}  # two spans in one response
    cached, read = cases["cached"].values["numbers"], cases["read again and again"].values["numbers"]
    assert cached["versions_read"] == 0
    assert read["versions_read"] == 3
    _check_drift(cached, _rows(cases["cached"]), now)
    first, *others = (outcome.values["losses"] for name, outcome in cases.items() if name != "cached")
    # Objectives and the run's own, at the initial weights, whose loss and gradient do not depend on the layout.
    assert len(first) == 9 + 1
    for outcome in cases.values():
        assert 0 < outcome.values["masked"] < 0.9
    for losses in others:
        for name, (loss, norm, share) in losses.items():
            assert (loss, norm, share) == pytest.approx(first[name], rel=1e-4, abs=1e-6), name
            assert norm > 1e-4, name
            assert 1 / len(sequences) - 1e-9 <= share < 0.999, name


def _check_drift(numbers: Mapping[str, Any], rows: Rows, now: list[torch.Tensor]) -> None:
    """The sample was the whole batch: compares drift with its definition, token by token."""
    ages: dict[str, list[tuple[float, float]]] = {"0": [], "1": [], "2-3": []}
    for number, items in rows.items():
        for position, version, log_mu, _ in items:
            ages[("2-3", "1", "0")[version]].append((now[number][position].item(), log_mu))
    everything = [pair for pairs in ages.values() for pair in pairs]
    figures = [numbers[name] for name in ("true_drift", "effective_share", "beyond_bound", "drift_tokens")]
    assert figures == pytest.approx(_drift(everything), rel=1e-4, abs=1e-5)
    assert list(numbers["drift_staleness"]) == list(ages)
    for age, pairs in ages.items():
        assert numbers["drift_staleness"][age] == pytest.approx(_drift(pairs), rel=1e-4, abs=1e-5), age


def _drift(pairs: list[tuple[float, float]]) -> list[float]:
    weights = [math.exp(log_pi - log_mu) for log_pi, log_mu in pairs]
    return [
        sum(log_pi - log_mu for log_pi, log_mu in pairs) / len(pairs),
        sum(weights) ** 2 / sum(weight**2 for weight in weights) / len(pairs),
        sum(abs(math.exp(log_pi) - math.exp(log_mu)) > 0.15 for log_pi, log_mu in pairs) / len(pairs),
        len(pairs),
    ]


def _published(root: Path, reference: Reference) -> dict[int, Path]:
    """The directory of every version as a fleet has it: full ones as they are, deltas applied."""
    verifier = Verifier(reference.directory, [root.as_uri()], root.parent / "cache")
    policies = [
        json_format.ParseDict(row, rollout_pb2.Policy()) for row in json.loads((root / "policies.json").read_text())
    ]
    assert len(policies) == 3
    return {policy.version: verifier.verify(policy).path for policy in policies}


def _rows(outcome: Outcome) -> Rows:
    files = list(outcome.directory.glob(f"{outcome.name}.*.logp"))
    assert files
    return {int(number): items for file in files for number, items in json.loads(file.read_text()).items()}


def _predicted(sequence: dict[str, Any]) -> list[int]:
    return [position for position, generated in enumerate(sequence["generated"]) if generated and position]


def _logp(directory: Path, sequences: list[dict[str, Any]]) -> list[torch.Tensor]:
    return _scores(transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), sequences)


def _logp_of(
    reference: Reference, weights: dict[str, torch.Tensor], directory: Path, sequences: list[dict[str, Any]]
) -> list[torch.Tensor]:
    shutil.copytree(reference.directory, directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return _logp(directory, sequences)


def _scores(model: Any, sequences: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Log-probability of every token of every sequence; 0 for a sequence's first token, which has none."""
    scores, gaps = [], watch_routers(model)
    with torch.no_grad():
        for row in sequences:
            tokens = torch.tensor(row["tokens"])
            logp = torch.log_softmax(model(tokens[None]).logits[0, :-1] / row["temperature"], -1)
            scores.append(torch.cat([torch.zeros(1), logp.gather(1, tokens[1:, None])[:, 0]]))
    assert min(gaps, default=math.inf) > UNDECIDED  # else rounding decides between two experts
    return scores
