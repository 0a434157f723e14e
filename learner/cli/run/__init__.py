"""A run as it is on disk: its run file, its directory, its recorded metrics and its summary."""
