"""The producing side: rollout workers with engines, prompts and rewards, and the submit SDK."""
