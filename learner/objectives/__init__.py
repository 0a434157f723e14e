"""Objectives in pure torch: log-probabilities of sampled tokens in, a loss and metrics out."""

from learner.objectives.base import Loss, MissingInputError, Objective, Responses
from learner.objectives.registry import get, names

__all__ = ["Loss", "MissingInputError", "Objective", "Responses", "get", "names"]
