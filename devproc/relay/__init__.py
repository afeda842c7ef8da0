"""Devices without the guest's memory: the relay beside the core, and the process of the device behind it."""
