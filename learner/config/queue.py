"""Settings of a run's queue in Redis: the section [queue] of a run file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from runtime.settings import Settings


class RedisTlsConfig(Settings):
    """How a rediss:// server is verified, and how we prove who we are to it."""

    ca: Path | None = Field(default=None, description="PEM of the authorities trusted; unset: the system's")
    certificate: Path | None = Field(default=None, description="PEM of our certificate, for mTLS")
    key: Path | None = Field(default=None, description="PEM of its private key")

    @model_validator(mode="after")
    def _pair(self) -> RedisTlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both, or neither")
        return self


class QueueConfig(Settings):
    """Where a run's queue lives."""

    url: str = Field(
        description="redis://, rediss:// or unix:// URL of the server, with an ACL user if it has one "
        "(rediss://user:password@host:port/0); or sentinels: redis+sentinel://user:password@host:26379,host:26379/name/0, "
        "with ?sentinel_password= (and sentinel_user=) where they have one of their own"
    )
    password_file: Path | None = Field(default=None, description="file that holds the password, instead of in the url")
    tls: RedisTlsConfig = RedisTlsConfig()
    run: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="the run's name, the hash tag of all its keys")
    id_memory_s: int = Field(default=86_400, gt=0, description="seconds a finished group's id is remembered")
    timeout_s: float = Field(default=10.0, gt=0, description="limit of one Redis round trip")
