"""Evaluation of recorded runs: the HTML report with its charts, and the comparison of runs."""
