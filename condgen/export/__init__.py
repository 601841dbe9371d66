"""Generators for other programs: ONNX, pt2 and safetensors."""
