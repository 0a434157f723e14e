"""Published versions in the worker: found, downloaded, rebuilt from deltas, verified before use."""
