"""Prompts as they travel between a worker and its hosts: as JSON, their data pickled.

Pickle, unlike JSON, gives ``Prompt.data`` back as it was, tuples and sets included, and objects of a user's own classes. Only
hosts read it: to the worker, the data of a prompt that a host made is an opaque text.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.tasks import Prompt


@dataclass(frozen=True)
class OpaqueData:
    """The data of a prompt that a host has made.

    Attributes:
        pickled: the pickle, in base64.
        public: the whole prompt as agents elsewhere see it; None where there are none.
    """

    pickled: str
    public: Any = None


def pack(prompt: Prompt) -> dict[str, Any]:
    """Returns a prompt as a JSON object. What its data raises when it is pickled, whatever that is, is passed on."""
    data = prompt.data
    pickled = data.pickled if isinstance(data, OpaqueData) else base64.b64encode(pickle.dumps(data)).decode()
    return {"prompt_id": prompt.prompt_id, "text": prompt.text, "messages": list(prompt.messages), "data": pickled}


def unpack(packed: Mapping[str, Any]) -> Prompt:
    """Returns the prompt that was packed, in a host."""
    data = pickle.loads(base64.b64decode(packed["data"]))  # noqa: S301 - our worker's own objects, through a pipe
    return Prompt(packed["prompt_id"], packed["text"], data, packed["messages"])


def unpack_opaque(packed: Mapping[str, Any]) -> Prompt:
    """Returns the prompt that was packed, in a worker: nothing is unpickled."""
    data = OpaqueData(packed["data"], packed.get("public"))
    return Prompt(packed["prompt_id"], packed["text"], data, packed["messages"])
