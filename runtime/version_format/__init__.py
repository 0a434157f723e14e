"""Format of a published policy version: names, manifest, file checks, safetensors headers, deltas.

The learner writes and reads versions, rollout workers read them, and neither may import the other: both import this. What
the manifest's fields mean is in proto/leeway/v1/manifest.proto.
"""
