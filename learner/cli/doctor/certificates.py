"""Certificates: readable, with their key, in date, by an authority that the other side trusts, for the right names."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.handshake import Shown, Side, handshake, names, own
from learner.cli.doctor.subject import Subject
from learner.config import ServerTlsConfig
from learner.gateway.auth import Identities, PresentedCredentials, UnauthenticatedError
from rollout.config import ClientTlsConfig, WorkerConfig
from runtime.settings import SettingsError

_SOON_S = 14 * 86_400


def certificates(subject: Subject) -> Iterator[Finding]:
    """The gateway's, each worker's, and ours for Redis."""
    server = subject.gateway.tls if subject.gateway is not None else None
    if server is not None:
        yield from _pair("gateway.tls", server.certificate, server.key)
    for worker in subject.workers:
        if worker.tls is None:
            continue
        if worker.tls.certificate is not None and worker.tls.key is not None:
            yield from _pair(f"{worker.name} tls", worker.tls.certificate, worker.tls.key)
        if server is not None:
            yield from _between(server, worker.tls, worker, subject)
        elif worker.tls.ca is not None:
            yield _authority(f"{worker.name} tls.ca", worker.tls.ca)
    if subject.kind == "gateway" and server is not None and server.client_ca is not None:
        yield _authority("gateway.tls.client_ca", server.client_ca)
    queue = subject.queue
    if queue is not None and queue.tls.certificate is not None and queue.tls.key is not None:
        yield from _pair("queue.tls", queue.tls.certificate, queue.tls.key)


def _pair(whose: str, certificate: Path, key: Path) -> Iterator[Finding]:
    fix = "expected a PEM certificate (with its chain) and its unencrypted PEM key"
    try:
        shown = own(certificate, key)
    except (ssl.SSLError, OSError) as error:
        yield fail("certificate", f"{whose}: {certificate} and {key}: {_reason(error)}", fix)
        return
    if shown.error:
        yield fail("certificate", f"{whose}: {certificate}: {shown.error}", "issue it anew")
        return
    yield _dated(whose, certificate, shown.server)


def _dated(whose: str, path: Path, certificate: dict[str, Any]) -> Finding:
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = (ends - time.time()) / 86_400
    text = f"{whose}: {path}: for {', '.join(names(certificate)) or 'no name'}, {days:.0f} days left"
    if ends - time.time() < _SOON_S:
        return warn("certificate", text, "renew it now; processes read replaced files by themselves")
    return ok("certificate", text)


def _between(
    server: ServerTlsConfig, client: ClientTlsConfig, worker: WorkerConfig, subject: Subject
) -> Iterator[Finding]:
    """Whether this worker and this gateway would talk to each other."""
    for address in worker.gateway.split(","):
        name = client.server_name or address.strip().rpartition(":")[0].strip("[]")
        try:
            shown = handshake(
                Side(server.certificate, server.key, server.client_ca),
                Side(client.certificate, client.key, client.ca),
                name,
            )
        except (ssl.SSLError, OSError) as error:
            yield fail("certificate", f"{worker.name} and the gateway: {_reason(error)}", "see the files of both [tls]")
            continue
        if shown.error:
            fix = (
                "the names of its certificate must cover the address, tls.ca and client_ca must have signed the other's"
            )
            yield fail("certificate", f"{worker.name} at {name}: {shown.error}", fix)
            continue
        yield ok("certificate", f"{worker.name} accepts the gateway's certificate as {name}'s")
        if shown.client:
            yield from _known(worker, shown, subject)


def _known(worker: WorkerConfig, shown: Shown, subject: Subject) -> Iterator[Finding]:
    """Whether a client certificate is a fleet's. A token may say it instead, but not another fleet."""
    sans = names(shown.client)
    path = subject.gateway.identities_file if subject.gateway is not None else None
    if path is None or not path.is_file():
        return
    try:
        caller = Identities(path).caller(PresentedCredentials(None, frozenset(sans)))
    except SettingsError:
        return  # said by the check of identities
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
    over = [entry for entry in authorities if ssl.cert_time_to_seconds(str(entry["notAfter"])) < time.time()]
    if over or not authorities:
        what = f"{len(over)} of {len(authorities)} have expired" if over else "it holds no authority (CA:TRUE)"
        return fail("certificate", f"{key} = {path}: {what}", "put the authority's current certificate there")
    return ok("certificate", f"{key} = {path}: {len(authorities)} authorities")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return getattr(error, "reason", None) or str(error)
