"""Tries a run's settings and task before `leeway doctor` or `leeway up` lets a process start."""
