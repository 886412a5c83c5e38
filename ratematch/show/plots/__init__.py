"""Pictures of an analysis: each a figure with the data behind it."""
