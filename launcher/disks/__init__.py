"""`bulkhead disk`: images made, copied, looked at, checked, split, committed and resized."""
