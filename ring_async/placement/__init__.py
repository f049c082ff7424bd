"""Placement: where the processes of a run are started, through Ray."""
