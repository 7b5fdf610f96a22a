"""`python -m edgehost`."""

import sys

from edgehost.cli import main

sys.exit(main())
