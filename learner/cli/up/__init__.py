"""`leeway up`: checks a run file, starts every process of the run, restarts and stops them."""
