"""Accuracy and fidelity: what a candidate loses against the float model on the same samples."""
