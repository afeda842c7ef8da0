"""The command line itself: verbs, help, completion, exit codes, and what people see."""
