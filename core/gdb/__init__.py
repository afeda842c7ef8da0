"""gdb's remote serial protocol, served by the core: registers, memory, breakpoints, steps, harts as threads.

`packet.py` is the wire, `registers.py` what gdb is told of the registers, `target.py` the machine as a debugger sees
it, `server.py` the conversation. What the harts do for it is in core/cpu/debug.py.
"""
