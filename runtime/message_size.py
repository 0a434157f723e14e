"""The bound of every limit of messages, by which a gateway and its fleets are set up."""

from __future__ import annotations

# Redis takes no value of 512 MiB, and a group is one; gRPC takes no limit above 2 GiB.
MOST_MESSAGE_BYTES = 512 << 20
