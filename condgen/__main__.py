"""Allows running ``condgen`` as ``python -m condgen``."""

import sys

from condgen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
