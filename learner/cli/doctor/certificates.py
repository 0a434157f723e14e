"""Checks certificates: readable, matching their key, in date, for the right names, from an authority the peer trusts."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learner.cli.doctor.handshake import (
    PresentedCertificates,
    TlsSide,
    alternative_names,
    handshake,
    self_handshake,
)
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from learner.config import ServerTlsConfig
from learner.gateway.auth import Identities, PresentedCredentials, UnauthenticatedError
from rollout.config import ClientTlsConfig, WorkerConfig
from runtime.settings import SettingsError

_RENEW_WITHIN_S = 14 * 86_400


def certificates(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks the certificates of the gateway, of each worker, and of this process for Redis."""
    server = examined.gateway.tls if examined.gateway is not None else None
    if server is not None:
        yield from _pair("gateway.tls", server.certificate, server.key)
    for worker in examined.workers:
        if worker.tls is None:
            continue
        if worker.tls.certificate is not None and worker.tls.key is not None:
            yield from _pair(f"{worker.name} tls", worker.tls.certificate, worker.tls.key)
        if server is not None:
            yield from _mutual_trust(server, worker.tls, worker, examined)
        elif worker.tls.ca is not None:
            yield _authority(f"{worker.name} tls.ca", worker.tls.ca)
    if examined.kind == "gateway" and server is not None and server.client_ca is not None:
        yield _authority("gateway.tls.client_ca", server.client_ca)
    queue = examined.queue
    if queue is not None and queue.tls.certificate is not None and queue.tls.key is not None:
        yield from _pair("queue.tls", queue.tls.certificate, queue.tls.key)


def _pair(section: str, certificate: Path, key: Path) -> Iterator[Finding]:
    fix = "expected a PEM certificate (with its chain) and its unencrypted PEM key"
    try:
        presented = self_handshake(certificate, key)
    except (ssl.SSLError, OSError) as error:
        yield fail("certificate", f"{section}: {certificate} and {key}: {_reason(error)}", fix)
        return
    if presented.error:
        yield fail("certificate", f"{section}: {certificate}: {presented.error}", "issue a new certificate")
        return
    yield _validity(section, certificate, presented.server)


def _validity(section: str, path: Path, certificate: dict[str, Any]) -> Finding:
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = (ends - time.time()) / 86_400
    names = ", ".join(alternative_names(certificate)) or "no name"
    text = f"{section}: {path}: for {names}, {days:.0f} days left"
    if ends - time.time() < _RENEW_WITHIN_S:
        return warn("certificate", text, "renew it now; running processes read the new file without a restart")
    return ok("certificate", text)


def _mutual_trust(
    server: ServerTlsConfig, client: ClientTlsConfig, worker: WorkerConfig, examined: ExaminedConfig
) -> Iterator[Finding]:
    """Whether this worker and this gateway would accept each other's certificates."""
    for address in worker.gateway.split(","):
        name = client.server_name or address.strip().rpartition(":")[0].strip("[]")
        try:
            presented = handshake(
                TlsSide(server.certificate, server.key, server.client_ca),
                TlsSide(client.certificate, client.key, client.ca),
                name,
            )
        except (ssl.SSLError, OSError) as error:
            fix = "check the files in gateway.tls and in the worker's tls"
            yield fail("certificate", f"{worker.name} and the gateway: {_reason(error)}", fix)
            continue
        if presented.error:
            fix = (
                "the gateway's certificate must name this address; the worker's tls.ca must have signed it, and "
                "gateway.tls.client_ca the worker's"
            )
            yield fail("certificate", f"{worker.name} at {name}: {presented.error}", fix)
            continue
        yield ok("certificate", f"{worker.name} accepts the gateway's certificate for {name}")
        if presented.client:
            yield from _fleet_of(worker, presented, examined)


def _fleet_of(worker: WorkerConfig, presented: PresentedCertificates, examined: ExaminedConfig) -> Iterator[Finding]:
    """Whether a client certificate identifies a fleet. Without a token file it must."""
    sans = alternative_names(presented.client)
    path = examined.gateway.identities_file if examined.gateway is not None else None
    if path is None or not path.is_file():
        return
    try:
        caller = Identities(path).caller(PresentedCredentials(None, frozenset(sans)))
    except SettingsError:
        return  # the check of credentials reports it
    except UnauthenticatedError as error:
        if worker.token_file is None:
            fix = f"`leeway fleet add RUN NAME --san {sans[0] if sans else 'NAME'}`"
            yield fail("certificate", f"{worker.name} ({', '.join(sans)}): {error}", fix)
        return
    yield ok("certificate", f"{worker.name} ({', '.join(sans)}) is fleet {caller.fleet}")


def _authority(key: str, path: Path) -> Finding:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        return fail("certificate", f"{key} = {path}: {_reason(error)}", "expected PEM certificates of authorities")
    authorities = [entry for entry in context.get_ca_certs() if "notAfter" in entry]
    expired = [entry for entry in authorities if ssl.cert_time_to_seconds(str(entry["notAfter"])) < time.time()]
    if expired or not authorities:
        what = f"{len(expired)} of {len(authorities)} have expired" if expired else "it contains no authority (CA:TRUE)"
        return fail("certificate", f"{key} = {path}: {what}", "put the authority's current certificate there")
    return ok("certificate", f"{key} = {path}: {len(authorities)} authorities")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return getattr(error, "reason", None) or str(error)
