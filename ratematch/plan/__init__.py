"""The question: what to run, as frozen values. No clock, socket, disk or process in this room."""
