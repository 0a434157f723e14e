"""TLS settings of a fleet."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from runtime.settings import Settings


class ClientTlsConfig(Settings):
    """TLS settings of a fleet: how the gateway is verified, and a client certificate. Empty: the system's authorities."""

    ca: Path | None = Field(default=None, description="PEM of the trusted authorities; unset: the system's")
    certificate: Path | None = Field(default=None, description="PEM of the fleet's certificate, for mTLS")
    key: Path | None = Field(default=None, description="PEM of its private key")
    server_name: str | None = Field(default=None, description="name in the gateway's certificate, if not its address")

    @model_validator(mode="after")
    def _pair(self) -> ClientTlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both, or neither")
        return self
