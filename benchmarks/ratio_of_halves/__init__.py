"""Is the ratio that is solved from servers simulated alone the best of whole deployments simulated?"""
