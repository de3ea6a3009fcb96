"""What requests look like, and how rows are shown. Fields may be added, none renamed."""
