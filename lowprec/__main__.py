"""``python -m lowprec``: the same as the command ``lowprec``."""

import sys

from lowprec.cli import main

if __name__ == "__main__":
    sys.exit(main())
