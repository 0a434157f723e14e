"""From groups to micro-batches: advantages and packing. Pure: tensors and numbers in, tensors out."""
