"""Settings of a run's queue in Redis: the section [queue] of a run file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from runtime.settings import Settings


class RedisTlsConfig(Settings):
    """Certificates for a rediss:// server: how it is verified, and what we present to it."""

    ca: Path | None = Field(default=None, description="PEM file of the trusted authorities; unset: the system's")
    certificate: Path | None = Field(default=None, description="PEM file of our certificate, for mTLS")
    key: Path | None = Field(default=None, description="PEM file of its private key")

    @model_validator(mode="after")
    def _pair(self) -> RedisTlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both, or neither")
        return self


class QueueConfig(Settings):
    """Address of a run's queue in Redis, and the name of the run."""

    url: str = Field(
        description="redis://, rediss:// or unix:// URL of the server, with an ACL user if it has one "
        "(rediss://user:password@host:port/0); or sentinels: redis+sentinel://user:password@host:26379,host:26379/name/0, "
        "with ?sentinel_password= (and sentinel_user=) if the sentinels have their own"
    )
    password_file: Path | None = Field(default=None, description="file that holds the password, instead of in the url")
    tls: RedisTlsConfig = RedisTlsConfig()
    run: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="name of the run, and the hash tag of all its keys")
    id_memory_s: int = Field(
        default=86_400,
        gt=0,
        description="seconds, by the queue's clock, for which the id of a group that has left the queue is remembered; a "
        "group that is not known and whose id was made before that is refused (id_too_old). An id takes some 100 bytes, "
        "which count as bytes of its fleet: see max_queued_bytes",
    )
    outage_s: float = Field(
        default=900.0,
        gt=0,
        description="seconds for which a learner waits for a Redis that is not there, loads its file or cannot write, at its "
        "start too, before it ends with an error (of several ranks, the others wait for learner.collective_timeout_s within "
        "a step, and for all of it at the start after that); gateways wait without limit, and tell fleets to send again",
    )
    timeout_s: float = Field(default=10.0, gt=0, description="seconds that one Redis round trip may take")
