"""Serves agents as OpenAI and Anthropic would, and records every call in an episode."""
