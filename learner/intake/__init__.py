"""Takes groups from the queue and prepares training batches, one step ahead of the training loop."""
