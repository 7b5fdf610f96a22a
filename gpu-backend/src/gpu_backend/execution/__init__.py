"""ONNX Runtime sessions: the lowest layer, which knows tensors and hardware and nothing else."""
