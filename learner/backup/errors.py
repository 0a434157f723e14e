"""The error of backups."""

from __future__ import annotations

from runtime.errors import LeewayError


class BackupError(LeewayError):
    """A backup that cannot be made or used. The message names the file or place, and says what to do."""
