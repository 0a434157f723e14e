"""Reads a status endpoint: its pages, and its metrics by name and labels."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The metrics of one scrape.

    Args:
        address: host:port of the endpoint.
    """

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """Value of the sample of that name with exactly these labels; None when there is none."""
        return next((one.value for one in self.samples if one.name == name and one.labels == labels), None)

    def names(self) -> Iterator[str]:
        """Names of all samples."""
        return (sample.name for sample in self.samples)


def probe(address: str, path: str) -> tuple[int, str]:
    """Fetches a page of the endpoint at host:port; returns status code and text."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
