"""What lets one machine run the whole service with nothing else installed."""
