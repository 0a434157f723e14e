"""The identities that operators have added to a run while it goes on: who may call its gateways, beside their file."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.keys import Keys
from learner.queue.scripts import script


@dataclass(frozen=True)
class AddedIdentity:
    """Credentials and roles of an identity that an operator has added.

    Attributes:
        tokens: SHA-256 of each of its tokens, 64 hexadecimal digits; the newest last.
        sans: subject alternative names of its certificates.
        roles: what it may do.
    """

    tokens: tuple[str, ...] = ()
    sans: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("submit",)


@dataclass(frozen=True)
class AddedIdentities:
    """All identities that operators have added, at one revision.

    Attributes:
        revision: differs whenever anything was changed; "" before the first change.
        by_name: each identity.
        damaged: names of entries that cannot be read: nobody is recognised by them.
    """

    revision: str = ""
    by_name: Mapping[str, AddedIdentity] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()

    @classmethod
    def parse(cls, revision: bytes | None, stored: Mapping[bytes, bytes]) -> AddedIdentities:
        """Parses what Redis stores: the revision, and a hash of name -> JSON."""
        found: dict[str, AddedIdentity] = {}
        damaged: list[str] = []
        for key, text in sorted(stored.items()):
            name = key.decode(errors="replace")
            try:
                values = {name: tuple(map(str, parts)) for name, parts in json.loads(text).items()}
                found[name] = AddedIdentity(**values)
            except (ValueError, TypeError, AttributeError):
                damaged.append(name)
        return cls((revision or b"").decode(), found, tuple(damaged))


class IdentityRegistry:
    """An operator's access to the added identities of a run. Every method raises QueueError when Redis cannot be used.

    Args:
        config: where the queue is.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._client = connect(config)
        self._keys = Keys(config.run)

    def __enter__(self) -> IdentityRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def read(self) -> AddedIdentities:
        """Reads all of them."""
        with translated():
            # The revision first: what is changed between the two reads makes the next ``write`` fail, not go unnoticed.
            revision: Any = self._client.get(self._keys.identity_revision)
            stored: Any = self._client.hgetall(self._keys.identities)
        return AddedIdentities.parse(revision, stored)

    def write(self, revision: str, name: str, identity: AddedIdentity | None) -> bool:
        """Writes an identity, or removes it.

        Args:
            revision: the revision by which the change was decided.
            name: the identity's name.
            identity: what it is from now on; None removes it.

        Returns:
            False if another change came first, and nothing was written: read and decide again.
        """
        text = "" if identity is None else json.dumps(asdict(identity))
        keys, code = self._keys, script("identity")
        with translated():
            written: Any = self._client.eval(
                code.text, 2, keys.identities, keys.identity_revision, revision, uuid.uuid4().hex, name, text
            )
        return bool(written)
