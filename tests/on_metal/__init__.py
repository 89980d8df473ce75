"""What needs the GPU of a Mac."""
