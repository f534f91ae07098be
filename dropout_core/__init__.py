"""Every dropout layer, and the engine that runs T stochastic passes of a network. Imports torch and nothing else."""
