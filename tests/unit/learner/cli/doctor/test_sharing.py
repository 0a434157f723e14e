"""A nonce written at the learner is found at a worker that sees the same directory or store."""

from __future__ import annotations

import json

from learner.cli.doctor import sharing
from learner.cli.preflight.examined_config import ExaminedConfig
from tests.tools.doctor_site import Site, bad


def test_what_the_learner_writes_the_worker_reads(site: Site):
    assert bad(sharing.sharing(site.read("learner"))) == []
    weights = (site.root / "weights").as_uri()
    path = site.root / "worker.json"
    site.read("worker")
    assert bad(sharing.sharing(ExaminedConfig.read(path, weights=weights))) == []
    old = json.loads((site.root / "weights" / sharing.NONCE).read_text()) | {"time": 0}
    (site.root / "weights" / sharing.NONCE).write_text(json.dumps(old))
    assert bad(sharing.sharing(ExaminedConfig.read(path, weights=weights)))[0].startswith("warn sharing")
    elsewhere = (site.root / "elsewhere").as_uri()
    assert "no doctor.json there" in bad(sharing.sharing(ExaminedConfig.read(path, weights=elsewhere)))[0]


def test_an_object_store_is_written_and_read(site: Site):
    url = {"dir": site.root / "weights", "mirror": [{"name": "a", "url": "memory://weights"}]}
    assert bad(sharing.sharing(site.read("learner", publish=url))) == []
    url["mirror"].append({"name": "b", "url": "nosuch://weights"})
    broken = url
    assert "nosuch" in bad(sharing.sharing(site.read("learner", publish=broken)))[0]
