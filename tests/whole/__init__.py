"""What is about all wings at once."""
