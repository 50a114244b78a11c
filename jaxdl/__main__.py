"""`python -m jaxdl` is `jaxdl`."""

import sys

from jaxdl.cli import main

if __name__ == "__main__":
    sys.exit(main())
