"""The command that changes an identity in a Kubernetes Secret, for identities that only the gateways' own file has."""

from __future__ import annotations

import json
import shlex
from typing import Any

from learner.cli.run.run_directory import RunError
from leeway.v1 import operator_pb2

_SECRET = "leeway-identities"
# Reads the Secret as JSON and prints the patch of it; the arguments are the identity's name and what is to change.
_ADD = """\
import base64, json, sys
name, change = sys.argv[1], json.loads(sys.argv[2])
found = json.loads(base64.b64decode(json.load(sys.stdin)["data"]["identities.json"]))
mine = found.setdefault(name, {"roles": ["submit"]})
for key in ("tokens", "sans"):
    mine[key] = list(dict.fromkeys(mine.get(key, []) + change[key]))
mine["roles"] = change["roles"] or mine.get("roles", ["submit"])
"""
_REMOVE = """\
import base64, json, sys
name, older = sys.argv[1], json.loads(sys.argv[2])
found = json.loads(base64.b64decode(json.load(sys.stdin)["data"]["identities.json"]))
mine = found.pop(name)
if older:
    found[name] = {**mine, "tokens": mine.get("tokens", [])[-1:]}
"""
_PRINT = """\
text = base64.b64encode(json.dumps(found, indent=2).encode()).decode()
print(json.dumps({"data": {"identities.json": text}}))"""


class FileFleetError(RunError):
    """An identity is in the gateways' own file, where no call changes it.

    Attributes:
        command: the shell command that changes it, where that file is a Kubernetes Secret.
        token: the token that is valid after that command, and not before; None: none was drawn.
    """

    def __init__(self, message: str, command: str, token: str | None = None) -> None:
        super().__init__(message)
        self.command = command
        self.token = token


def added(request: operator_pb2.AddIdentityRequest) -> str:
    """The shell command that adds to an identity in the Secret what a request would have added.

    It reads the Secret, changes this identity and writes it back; it is run with the namespace of the run as kubectl's.
    """
    change: dict[str, Any] = {
        "tokens": [request.token_sha256] if request.token_sha256 else [],
        "sans": list(request.sans),
        "roles": list(request.roles),
    }
    return _command(_ADD, request.name, change)


def removed(name: str, older: bool) -> str:
    """The shell command that removes an identity from the Secret, or its older tokens."""
    return _command(_REMOVE, name, older)


def _command(program: str, name: str, change: Any) -> str:
    words = ["python3", "-c", program + _PRINT, name, json.dumps(change)]
    return (
        f"kubectl get secret {_SECRET} -o json | {shlex.join(words)} | "
        f"kubectl patch secret {_SECRET} --type merge --patch-file /dev/stdin"
    )
