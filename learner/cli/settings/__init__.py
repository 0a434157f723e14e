"""The commands about settings: the reference of all keys, and what a run really uses."""
