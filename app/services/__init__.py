"""Verbs, one file per noun. Session first; never commit, never see a request."""
