"""Measures published versions on prompts that are not trained on, away from training."""
