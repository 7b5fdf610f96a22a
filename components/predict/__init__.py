"""Image classification and Open Inference Protocol at the edge."""
