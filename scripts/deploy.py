#!/usr/bin/env python3
"""Take Inference Anywhere to a Kubernetes cluster with SpinKube.

    scripts/deploy.py doctor dev     what the cluster lacks, and the command that fixes it
    scripts/deploy.py plan dev       what would change
    scripts/deploy.py apply dev      change it and wait until it is ready
    scripts/deploy.py status | rollback | smoke

Needs requirements/deploy.txt. docs/deploy.md tells the whole way.
"""

from __future__ import annotations

import sys

try:
    from deployment import main
except ModuleNotFoundError as exc:
    if exc.name not in ("kubernetes", "yaml", "urllib3"):
        raise
    sys.exit(
        f"error: the Python package {exc.name} is missing: "
        "python3 -m pip install -r requirements/deploy.txt"
    )

if __name__ == "__main__":
    sys.exit(main())
