"""The command line, the machine description, the keeper that supervises a machine's processes, and the guest images."""

__version__ = "0.1.0"
