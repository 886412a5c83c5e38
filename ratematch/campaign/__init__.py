"""Many experiments: the controller of a sweep, what it decides, and the jobs it sends."""
