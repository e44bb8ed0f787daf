"""Kinds of models: how the inputs of each become examples, how it is run, and how its loss splits into examples."""

from cmp_rerank.models.base import ExampleLosses, ModelAdapter, adapter_of
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter, cross_encoder

__all__ = ["CrossEncoderAdapter", "ExampleLosses", "ModelAdapter", "adapter_of", "cross_encoder"]
