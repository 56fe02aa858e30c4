"""`python -m edgewarden`: the same as the command `edgewarden`."""

from __future__ import annotations

import sys

from edgewarden.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
