"""A real Prometheus server with our rules, sped up: it scrapes and evaluates every second, and limits are seconds."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runtime.children import Child

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"


class Prometheus:
    """A server with its data below ``directory``.

    Args:
        directory: made when missing.
        run: the target label of every target.
        targets: job -> host:port of its status endpoint.
        limits: name (without leeway:limit:) -> another number.
    """

    def __init__(self, directory: Path, run: str, targets: Mapping[str, str], limits: Mapping[str, float]) -> None:
        directory.mkdir(parents=True)
        (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": quick_rules(limits)}))
        scrapes = [
            {"job_name": job, "static_configs": [{"targets": [address], "labels": {"run": run}}]}
            for job, address in targets.items()
        ]
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": scrapes}
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        files = [f"--config.file={directory}/prometheus.yaml", f"--storage.tsdb.path={directory}/data"]
        command = ["prometheus", *files, f"--web.listen-address={self._address}", "--log.level=warn"]
        self.child = Child("prometheus", command, directory / "prometheus.log")

    def firing(self) -> set[str]:
        """The alerts that fire now, each with its fleet where it has one: "LeewayFleetSilent/alpha"."""
        labels = [alert["labels"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"]
        return {"/".join([one["alertname"], *([one["fleet"]] if "fleet" in one else [])]) for one in labels}

    def value(self, query: str) -> float | None:
        """Runs an instant query and returns its only result; None when it has none."""
        result = self._get(f"query?{urllib.parse.urlencode({'query': query})}")["result"]
        return float(result[0]["value"][1]) if result else None

    def answers(self) -> bool:
        """Whether the server answers."""
        try:
            self._get("alerts")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}", timeout=10) as reply:
            return json.load(reply)["data"]


def quick_rules(limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns the groups of deploy/prometheus/rules with limits replaced and alerts pending for a second at most."""
    groups = [group for path in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(path.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"].rpartition(":")[2]: rule for rule in rules if "record" in rule}
    for name, number in limits.items():
        recorded[name]["expr"] = f"vector({number})"
    for rule in rules:
        if "for" in rule:
            rule["for"] = "1s"
    return groups
