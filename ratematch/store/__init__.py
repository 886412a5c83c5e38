"""The results folder: what is written where, whole or not at all, and read back."""
