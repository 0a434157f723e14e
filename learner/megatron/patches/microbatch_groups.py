"""Sets the interleaved schedule's group size anew for each batch.

What it changes: ``TransformerConfig.microbatch_group_size_per_vp_stage``, after the model has been built from it.
Why: it is a setting of the whole run in Megatron, but the schedule accepts only some group sizes for each number of
micro-batches, which differs from batch to batch here. The schedule reads the setting anew for each batch.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: the interleaved schedule (virtual_pipeline > 1) refuses most numbers of micro-batches.
"""

from __future__ import annotations

from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.transformer.transformer_config import TransformerConfig

from learner.megatron.patches.guard import require_release, require_signature

require_release("megatron-core")
require_signature(get_schedule_table, "(num_microbatches, num_model_chunks, microbatch_group_size_per_vp_stage)")


def set_group_size(config: TransformerConfig, size: int) -> None:
    """Makes the interleaved schedule send ``size`` micro-batches through one model chunk before the next chunk's turn."""
    config.microbatch_group_size_per_vp_stage = size
