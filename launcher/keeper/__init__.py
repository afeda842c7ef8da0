"""The keeper: the process that starts, watches, restarts and ends the others of one machine."""
