"""9P2000.L, the file-system protocol of `mount -t 9p`, over virtio-9p. The protocol's text is Linux's
Documentation/filesystems/9p and the diod project's protocol.md; names here are theirs."""
