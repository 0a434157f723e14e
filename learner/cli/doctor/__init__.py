"""`leeway doctor`: finds what would go wrong in a run, before the run is started."""

from learner.cli.doctor.examine import examine
from learner.cli.preflight.finding import Finding

__all__ = ["Finding", "examine"]
