"""The Open Inference Protocol, version 2: inference, metadata and model management."""
