"""Evaluation of recorded runs: the HTML report with its charts, and the fit of the staleness radii."""
