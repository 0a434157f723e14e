"""Publication of policy versions: writing, mirroring, listing and reading them back."""
