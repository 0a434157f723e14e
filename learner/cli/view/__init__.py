"""What the `leeway` command prints in a terminal: the live table, the ledger and the closing summary."""
