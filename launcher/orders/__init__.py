"""Orders to running machines: stop, restart, swap, mirror, break, debug."""
