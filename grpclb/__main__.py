"""``python -m grpclb``; see `grpclb.cli`."""

import sys

from grpclb.cli import main

if __name__ == "__main__":
    sys.exit(main())
