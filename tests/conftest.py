"""Settings of every test process, made before gRPC is imported."""

from __future__ import annotations

import os

# Test processes fork only to run other programs. gRPC's handlers of a fork have nothing to save for those, and a fork beside
# a server in the same process has crashed in them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
