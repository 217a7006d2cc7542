"""`python -m effc`."""

import sys

from effc.cli import main

if __name__ == "__main__":
    sys.exit(main())
