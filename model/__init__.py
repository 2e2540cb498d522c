"""Predictions: tokenizer, network, runtimes, decoders, checkpoint. No HTTP, no training loop."""

import os

# ONNX Runtime 1.29 and later report their use to Microsoft, unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
