"""Looking at running machines: processes, logs, crashes, queues, sandboxes, metrics."""
