"""Where bytes live: checkpoint files read on demand and written one tensor at a time."""
