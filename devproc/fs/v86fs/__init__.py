"""v86fs, the file-system protocol of a browser's machine emulator: a virtio device of type 63 that can also push. Every
field of its messages is in `messages.py`, what each does in docs/shares.md."""
