"""`python -m gpu_backend`."""

from __future__ import annotations

import sys

from gpu_backend.main import main

sys.exit(main())
