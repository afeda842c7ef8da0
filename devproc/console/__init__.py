"""virtio-console: ports between a guest and stdio, pseudo-terminals, sockets and files."""
