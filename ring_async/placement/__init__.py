"""Where the processes of a run are, and how they come to be there: Ray's part of the house."""
