"""Settings of a copy of the published versions: a table of [[learner.publish.mirror]] in a run file."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from runtime.settings import Settings

LOCAL = "local"  # name of the learner's own disk among a version's locations


class MirrorConfig(Settings):
    """A copy of the published versions, such as one in each region."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="name under which fleets are told of it and may prefer it (rollout.locations); not local, the learner's "
        "own disk",
    )
    url: str = Field(description="s3://..., gs://..., file:///... (fsspec): versions are copied there from publish.dir")
    url_options: dict[str, Any] = Field(
        default={}, description="options of the fsspec client: endpoint, credentials, timeouts"
    )
    transfer_timeout_s: float = Field(
        default=1800.0, gt=0, description="limit of the transfer of one file; each is tried three times"
    )
    wait_s: float = Field(
        default=900.0,
        gt=0,
        description="seconds for which the announcement of a version waits for this copy; then the version is announced "
        "without it, and this mirror is tried again with the next version",
    )
