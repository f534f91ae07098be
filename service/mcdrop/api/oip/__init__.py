"""The Open Inference Protocol, version 2: how its requests become queries, and how it is told what there is."""
