"""Running a machine: its directory, its start, `bulkhead run` and `bulkhead demo`."""
