"""When the client certificates expire that fleets present, as far as their calls have shown them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509

from runtime.metric_registry import MetricRegistry, Readings

_PEM = "x509_pem_cert"  # key of gRPC's authentication context
_SHOWN_S = 3600.0  # a certificate that was not presented for so long is no longer in use
_MOST = 64  # certificates of one fleet; workers may have one each


@dataclass
class _Certificate:
    expires: float  # Unix seconds
    seen: float  # of the clock


class FleetCertificates:
    """Shows for each fleet when the first of the certificates expires that its workers have presented within the last hour.

    Args:
        registry: where the metric is declared.
        clock: returns seconds.
    """

    def __init__(self, registry: MetricRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, dict[bytes, _Certificate]] = {}
        registry.read_all(
            "leeway_gateway_fleet_certificate_expiry_timestamp_seconds",
            "When the first of the client certificates expires that a fleet presented in the last hour; NaN without one.",
            ("fleet",),
            self._by_fleet,
        )

    def add_fleets(self, fleets: Iterable[str]) -> None:
        """Makes the series of these fleets exist before their first call."""
        for fleet in fleets:
            self._known.setdefault(fleet, {})

    def presented(self, fleet: str, auth_context: Mapping[str, Iterable[bytes]]) -> None:
        """Records the certificate of a call's connection, if it has one.

        Args:
            fleet: who the caller has proved to be.
            auth_context: gRPC's authentication context of the connection.
        """
        for pem in auth_context.get(_PEM, ()):
            known = self._known.setdefault(fleet, {})
            if pem in known:
                known[pem].seen = self._clock()
                continue
            if len(known) >= _MOST:
                del known[min(known, key=lambda one: known[one].seen)]
            known[pem] = _Certificate(_expiry(pem), self._clock())

    def _by_fleet(self) -> Readings:
        since = self._clock() - _SHOWN_S
        return {
            (fleet,): min((one.expires for one in list(known.values()) if one.seen >= since), default=math.nan)
            for fleet, known in dict(self._known).items()
        }


def _expiry(pem: bytes) -> float:
    """Unix seconds at which a certificate expires; 0 if it cannot be read, which an alert on the date notices at once."""
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0
