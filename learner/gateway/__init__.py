"""gRPC service that fleets talk to: checks who calls, validates and queues groups, grants leases."""
