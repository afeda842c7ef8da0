"""What the machine code of 9P and of FUSE has in common: looking at files, reading directories, writing the journal."""
