"""Which measurement next: beliefs about what is not measured, and what knowing it would be worth. Pure."""
