"""`python -m launcher`: the same as `bulkhead`."""

import sys

from launcher.cli import main

sys.exit(main())
