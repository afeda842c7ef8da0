"""Which name did you mean? `proto.suggest`, under the name by which the command line knows it."""

from proto.suggest import closest, did_you_mean

__all__ = ["closest", "did_you_mean"]
