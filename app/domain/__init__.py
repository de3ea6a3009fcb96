"""The vocabulary: frozen dataclasses from the standard library, shared with the engine."""
