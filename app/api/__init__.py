"""HTTP: parse at the edge, call one service, answer."""
