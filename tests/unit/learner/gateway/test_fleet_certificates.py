"""When fleets' client certificates expire, as gateways show it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from cryptography import x509

from learner.gateway.fleet_certificates import FleetCertificates
from runtime.metric_registry import MetricRegistry
from tests.service.certificates import Authority

_NAME = "leeway_gateway_fleet_certificate_expiry_timestamp_seconds"


class Site:
    """Certificates of a fleet, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.authority = Authority(directory)
        self.registry = MetricRegistry()
        self.certificates = FleetCertificates(self.registry, lambda: self.now)

    def issue(self, days: float) -> bytes:
        return self.authority.issue("worker", "worker.test", days=days).certificate.read_bytes()

    def present(self, pem: bytes) -> None:
        self.certificates.presented("tokyo", {"x509_pem_cert": [pem]})

    def shown(self, fleet: str = "tokyo") -> float | None:
        return self.registry.prometheus.get_sample_value(_NAME, {"fleet": fleet})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def end(pem: bytes) -> float:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def test_a_fleet_without_a_certificate_has_a_series_that_alerts_nobody(site: Site):
    site.certificates.add_fleets({"tokyo"})
    site.certificates.presented("tokyo", {})
    assert math.isnan(site.shown() or 0.0)


def test_the_earliest_end_of_the_certificates_in_use_is_shown(site: Site):
    old, renewed = site.issue(3), site.issue(90)
    site.present(renewed)
    assert site.shown() == end(renewed)
    site.present(old)
    assert site.shown() == end(old)
    site.now = 3000.0
    site.present(renewed)
    site.now = 3700.0  # the old one was not seen for an hour
    assert site.shown() == end(renewed)
    site.now = 9000.0
    assert math.isnan(site.shown() or 0.0)


def test_what_cannot_be_read_counts_as_expired(site: Site):
    site.present(b"nonsense")
    assert site.shown() == 0.0


def test_a_fleet_with_very_many_certificates_takes_bounded_memory(site: Site):
    for number in range(200):
        site.now = number
        site.certificates.presented("tokyo", {"x509_pem_cert": [b"%d" % number]})
    assert len(site.certificates._known["tokyo"]) == 64
