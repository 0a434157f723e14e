"""Two ranks publish their shards as deltas; one fails once: both know it, and the next version is a full one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from google.protobuf import json_format
from safetensors.torch import load_file, save_file

from learner.publish.catalog import base_of
from leeway.v1 import rollout_pb2
from rollout.versions.verifier import Verifier
from tests.parallel.publishing import BROKEN, VERSIONS, weights

SCRIPT = Path(__file__).parent / "publishing.py"


def test_every_rank_writes_its_shard_and_all_see_a_failure(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    save_file({f"part{rank}": weights(rank, 0) for rank in range(2)}, tmp_path / "model" / "model.safetensors")
    root = SCRIPT.parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'proto'}", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(rank), str(tmp_path)], env=environment, stdout=log, stderr=log
            )
            for rank in range(2)
        ]
        try:
            assert [rank.wait(timeout=300) for rank in ranks] == [0, 0], (tmp_path / "log").read_text()
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait(timeout=60)
    announced = json.loads((tmp_path / "announced.json").read_text())
    assert announced["failures"] == [BROKEN]
    policies = [json_format.ParseDict(row, rollout_pb2.Policy()) for row in announced["policies"]]
    assert [policy.version for policy in policies] == [v for v in range(VERSIONS) if v != BROKEN]
    bases = [base_of(tmp_path / "weights", policy.version) for policy in policies]
    assert bases == [None, 0, None, 3, 4]
    verifier = Verifier(tmp_path / "model", tmp_path / "cache")
    for policy in policies:
        found = verifier.verify(policy)
        for rank in range(2):
            (tensor,) = load_file(found.path / f"model-{rank:05d}.safetensors").values()
            assert torch.equal(tensor, weights(rank, policy.version)), (policy.version, rank)
