"""What the verbs print: views for a terminal, and the same as JSON."""
