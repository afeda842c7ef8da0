"""`bulkhead chaos`: random faults at random times under random work, and the proof that nothing is lost."""
