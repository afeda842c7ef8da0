"""FUSE, the file-system protocol of `mount -t virtiofs`, over virtio-fs. Its text is Linux's
include/uapi/linux/fuse.h; names here are its own."""
