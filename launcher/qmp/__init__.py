"""QMP, QEMU's machine protocol: control of a running machine for programs, and the monitor for people.

`commands.py` declares every command once; the server, the schema, `bulkhead qmp`, the monitor and docs/qmp.md are made
of it. `actions.py` carries them out as requests to the keeper, `tree.py` is the machine as a tree of objects,
`session.py` one client's conversation, `server.py` the process that serves them.
"""
