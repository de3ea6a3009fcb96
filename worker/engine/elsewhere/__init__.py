"""Which other runtimes take a model, and how to run it."""
