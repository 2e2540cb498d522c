"""Predictions: tokenizer, network, runtimes, decoders, checkpoint. No HTTP, no training loop."""
