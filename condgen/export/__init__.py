"""Exports generators to ONNX, pt2 (``torch.export``) or safetensors, along with a model card."""
