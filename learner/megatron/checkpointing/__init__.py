"""Saving and loading the model, the optimizer and the random states, under any parallel layout."""
