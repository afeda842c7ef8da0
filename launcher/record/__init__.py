"""`bulkhead record` and `export`: all that driver and device say, with payload, in a file, and as others read it.

`taps` has the recorder's end of what devices write, `trigger` keeps the last seconds until something happens, `words`
tells a recorded request as `bulkhead trace` does, `cli` is the verb; `export` and those beside it
make other files.
"""
