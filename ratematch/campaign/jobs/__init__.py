"""One file for each kind of job an experiment can have."""
