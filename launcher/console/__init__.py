"""The console: the user's terminal at one end, the guest's serial line at the other."""
