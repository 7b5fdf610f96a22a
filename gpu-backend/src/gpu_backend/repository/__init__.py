"""Models on disk and in memory: manifests, versions, loading and switching."""
