"""The words in which a gateway's log says what an operator asked for; never a secret."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

from google.protobuf import json_format
from google.protobuf.message import Message

_MOST_CHARACTERS = 2000


def described(request: Message) -> str:
    """A request of an operator as JSON, at most 2000 characters, without digests of tokens and without keys in addresses."""
    values = json_format.MessageToDict(request, preserving_proto_field_name=True)
    if "token_sha256" in values:
        values["token_sha256"] = "given"
    backup = values.get("change", {}).get("backup", {})
    if "uri" in backup:
        backup["uri"] = without_secrets(backup["uri"])
    text = json.dumps(values)
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "..."


def without_secrets(uri: str) -> str:
    """A URI without the user, password and query in it, where access keys may be."""
    try:
        parts = urlsplit(uri)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "an address that cannot be read"
