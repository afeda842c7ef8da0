"""How a process gives up what it does not need: the kernel's means, each of which may be missing on a host.

`syscalls` and `seccomp`, `landlock`, `namespaces`, `limits`: what each needs and promises is in its own file. Nothing
here decides what a process may do; that is `devproc.sandbox` and `core.sandbox`.
"""
