"""The key that SGLang servers elsewhere want: their --api-key and --admin-api-key, sent with every request to them."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import structlog

from runtime.settings import SettingsError


class EngineKey:
    """The key of the engines of one pool.

    Args:
        file: file with the key; None: they want none.
        session: all of its requests carry the key from now on.

    Raises:
        SettingsError: the file cannot be read, or is empty.
    """

    def __init__(self, file: Path | None, session: aiohttp.ClientSession) -> None:
        self._file = file
        self._session = session
        self._use()

    def refresh(self) -> None:
        """Reads the file again: an engine that was started again may have another key. Without the file the old one stays."""
        try:
            self._use()
        except SettingsError as error:
            structlog.get_logger().warning("the engines' key cannot be read again", error=str(error))

    def _use(self) -> None:
        if self._file is None:
            return
        try:
            key = self._file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"engine.key_file = {self._file}: {error}; expected a file with the engines' --api-key"
            ) from error
        if not key or not key.isascii() or not key.isprintable():
            raise SettingsError(
                f"engine.key_file = {self._file}: expected one line of printable ASCII, the engines' --api-key"
            )
        self._session.headers["Authorization"] = f"Bearer {key}"
