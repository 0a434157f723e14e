"""Commands that operate an existing run: its fleets, published versions, quarantine and status."""
