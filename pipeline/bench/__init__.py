"""The ruler: what this machine can do, part by part, and what a run makes of it."""
