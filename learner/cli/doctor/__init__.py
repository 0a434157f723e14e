"""`leeway doctor`: looks for what usually goes wrong, before it does."""

from learner.cli.doctor.examine import examine
from learner.cli.doctor.finding import Finding

__all__ = ["Finding", "examine"]
