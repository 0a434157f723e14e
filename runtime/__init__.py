"""What several processes need: settings, logs, metrics, traces, child processes, the version format."""
