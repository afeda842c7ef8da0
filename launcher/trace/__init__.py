"""`bulkhead trace`: what driver and devices say, in the device's own words, here or from another machine.

`rings` and `remote` bring records, `requests` makes requests of them, `devproc.tellers` names what is in them,
`proto.filters` chooses, `summary` counts, `cli` shows; `tap` is the process that serves viewers elsewhere, `keys` says
who they may be.
"""
