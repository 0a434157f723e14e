"""The policy: its architecture, its layers over packed rows, its weights in Hugging Face form."""
