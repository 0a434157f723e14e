"""Changes to private parts of megatron-core and torch: one guarded file per patch.

Every patch calls guard.require_release, and guard.require_signature where it replaces or calls a private function, when it
is imported or applied: with another release the learner refuses to start instead of training wrongly. Nothing here imports
the rest of the learner.

Not patches, because Megatron documents them for its users: the hooks finalize_model_grads_func and no_sync_func of
TransformerConfig (learner.megatron.training.trainer), and layer specs made of other modules (learner.megatron.model.layers).
"""
