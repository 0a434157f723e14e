"""What every process of ours needs: frozen settings, child processes that cannot outlive us, structured logs."""
