"""The fleet side: the rollout worker, its engines, prompts and rewards, and the public submit client."""
