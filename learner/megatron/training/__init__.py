"""An optimizer step over the pipeline, scoring under other weights, measuring the update."""
