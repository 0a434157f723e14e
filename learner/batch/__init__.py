"""Turns groups into advantages, weighted sequences and packed micro-batches, without I/O or state."""
