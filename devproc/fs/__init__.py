"""Shared folders: file-system protocols (9P, FUSE, v86fs) over one small interface, and what can stand behind it."""
