"""What a prediction is: vocabulary, network, runtimes, decoders, checkpoint. No HTTP, no training loop."""
