"""`bulkhead replay`: a recording fed to a device process without a guest, and its answers compared.

`source` brings requests of a recording or of a crash bundle, `frontend` and `driver` are what stands around the device,
`player` puts requests into its rings, `place` finds out what is behind the device, `compare` says what an equal answer
is, `cli` shows. `launcher.replay.player.replay` is the function for regression tests.
"""
