"""Text without a model: segments, and which of them support a label."""
