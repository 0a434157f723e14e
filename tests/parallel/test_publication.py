"""Two ranks publish their shards: as deltas, with a failure that both hear of; and with uploads slower than training."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from google.protobuf import json_format
from safetensors.torch import load_file, save_file

from learner.publish.catalog import base_of
from leeway.v1 import rollout_pb2
from rollout.versions.verifier import Verifier
from tests.parallel import slow_upload
from tests.parallel.publishing import BROKEN, VERSIONS, weights
from tests.parallel.slow_upload import STEPS

HERE = Path(__file__).parent


@contextlib.contextmanager
def two_ranks(script: str, directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that run a script of this directory, with their output in ``log``; killed at the end."""
    root = HERE.parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'proto'}", "OMP_NUM_THREADS": "1"}
    with (directory / "log").open("w") as log:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(HERE / script), str(rank), str(directory)],
                env=environment,
                stdout=log,
                stderr=log,
            )
            for rank in range(2)
        ]
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait(timeout=60)


def test_every_rank_writes_its_shard_and_all_see_a_failure(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    save_file({f"part{rank}": weights(rank, 0) for rank in range(2)}, tmp_path / "model" / "model.safetensors")
    with two_ranks("publishing.py", tmp_path) as ranks:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0], (tmp_path / "log").read_text()
    announced = json.loads((tmp_path / "announced.json").read_text())
    assert announced["failures"] == [BROKEN]
    policies = [json_format.ParseDict(row, rollout_pb2.Policy()) for row in announced["policies"]]
    assert [policy.version for policy in policies] == [v for v in range(VERSIONS) if v != BROKEN]
    bases = [base_of(tmp_path / "weights", policy.version) for policy in policies]
    assert bases == [None, 0, None, 3, 4]
    verifier = Verifier(tmp_path / "model", [(tmp_path / "weights").as_uri()], tmp_path / "cache")
    for policy in policies:
        found = verifier.verify(policy)
        for rank in range(2):
            (tensor,) = load_file(found.path / f"model-{rank:05d}.safetensors").values()
            assert torch.equal(tensor, weights(rank, policy.version)), (policy.version, rank)


def test_uploads_that_take_longer_than_a_collective_hold_up_nothing(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with two_ranks("slow_upload.py", tmp_path) as ranks:
        expected = [tmp_path / f"{name}-{rank}" for name in ("trained", "uploading") for rank in range(2)]
        deadline = time.monotonic() + 240
        while not all(path.exists() for path in expected):  # both upload at the same time: neither can end
            assert all(rank.poll() is None for rank in ranks), (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        (tmp_path / "release").touch()
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0], (tmp_path / "log").read_text()
    policies = json.loads((tmp_path / "announced.json").read_text())
    assert [(int(policy.get("version", 0)), int(policy["step"])) for policy in policies] == [(0, 1), (1, STEPS)]
    for rank in range(2):
        (tensor,) = load_file(tmp_path / "mirror" / "weight_v000001" / f"model-{rank:05d}.safetensors").values()
        assert torch.equal(tensor, slow_upload.weights(rank, STEPS))
