"""Pre- and post-processing that fits in a few milliseconds of Wasm."""
