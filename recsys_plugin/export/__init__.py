"""From trained models to a Triton model repository: ONNX graphs, generated configurations, parity and known answers."""
