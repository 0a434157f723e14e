"""The learning rate of every step: its schedule, the rule that bounds it, and the alarms."""
