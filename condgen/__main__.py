"""``python -m condgen`` is the command ``condgen``."""

import sys

from condgen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
