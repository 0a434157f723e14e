"""A run file and files of single processes, for tests of `leeway doctor` to spoil."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learner.cli.doctor import Finding
from learner.cli.preflight.examined_config import ExaminedConfig
from rollout.data.demo_model import DemoShape, write_model
from tests.service.certificates import Authority
from tests.tools.runs import DEMO

TOKEN = "secret"
MODEL = DemoShape(layers=2, hidden=32, ffn=32)


def bad(findings: Iterator[Finding]) -> list[str]:
    """Returns the findings that are not ok, as ``state check: found``."""
    return [f"{one.state} {one.check}: {one.found}" for one in findings if one.state != "ok"]


class Site:
    """The files of each process, as a container has them; all are sound until a test changes one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = Authority(root / "tls")
        self.model = root / "model"
        write_model(self.model, 0, MODEL)
        self.identities({"tokyo": {"tokens": [hashlib.sha256(TOKEN.encode()).hexdigest()]}})
        self.secret("token", TOKEN)

    def identities(self, fleets: Any) -> None:
        (self.root / "identities.json").write_text(json.dumps(fleets))

    def secret(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def read(self, kind: str, *overrides: str, **changes: Any) -> ExaminedConfig:
        path = self.root / f"{kind}.json"
        path.write_text(json.dumps({**getattr(self, f"_{kind}")(), **changes}, default=str))
        return ExaminedConfig.read(path, overrides)

    def _gateway(self) -> dict[str, Any]:
        return {
            "listen": "127.0.0.1:0",
            "identities_file": self.root / "identities.json",
            "queue": {"url": "redis://127.0.0.1:1/0", "run": "r"},
            "limits": {"vocab_size": 13},
        }

    def _learner(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "queue": {"url": "redis://127.0.0.1:1/0", "run": "r"},
            "steps": 10,
            "checkpoint": {"dir": self.root / "checkpoints"},
            "publish": {"dir": self.root / "weights"},
            "metrics_dir": self.root / "metrics",
        }

    def _worker(self) -> dict[str, Any]:
        return {
            "gateway": "127.0.0.1:1",
            "token_file": self.root / "token",
            "model": self.model,
            "state_dir": self.root / "state",
            "log_dir": self.root / "logs",
            "allowed_uris": [(self.root / "weights").as_uri()],
        }


def examined_run(site: Site, *overrides: str) -> ExaminedConfig:
    return ExaminedConfig.read(DEMO, [f"run.dir={site.root / 'run'}", "run.status_port=0", *overrides])
