"""Objectives: pure functions of current-policy log-probabilities."""

from learner.objectives.base import Objective, Responses
from learner.objectives.registry import get, names

__all__ = ["Objective", "Responses", "get", "names"]
