"""Sends one message to a URL that a stranger chose, and tells what came of it."""
