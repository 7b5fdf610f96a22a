"""A renderer for the part of kustomize that the manifests of this repository use.

It makes rendering, planning and testing independent of kubectl. Where kubectl is on PATH, a test
holds that both render every overlay alike.
"""

from .build import render
from .errors import KustomizationError, UnsupportedFieldError
from .loading import Manifest

__all__ = ["KustomizationError", "Manifest", "UnsupportedFieldError", "render"]
