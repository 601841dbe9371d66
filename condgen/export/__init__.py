"""Export of generators to ONNX, pt2 (``torch.export``) and safetensors, with a model card."""
