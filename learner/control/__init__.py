"""The learning rate of every step: its schedule, the bound that staleness puts on it, and the alarms."""
