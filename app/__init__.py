"""Requests and records. Never loads an untrusted model."""
