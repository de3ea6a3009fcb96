"""Tables, sessions and named statements."""
