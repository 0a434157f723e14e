"""Added identities as Redis stores them: damaged ones recognise nobody, and hide none of the others."""

from __future__ import annotations

from learner.queue.identity_registry import AddedIdentities, AddedIdentity


def test_damaged_entries_are_named():
    stored = {
        b"good": b'{"tokens": ["t"], "sans": ["s"], "roles": ["operate"]}',
        b"text": b"nonsense",
        b"list": b"[]",
        b"other": b'{"token": ["t"]}',
        b"number": b'{"tokens": 7}',
    }
    found = AddedIdentities.parse(b"r", stored)
    assert dict(found.by_name) == {"good": AddedIdentity(("t",), ("s",), ("operate",))}
    assert (found.revision, found.damaged) == ("r", ("list", "number", "other", "text"))
    assert AddedIdentities.parse(None, {}) == AddedIdentities()
