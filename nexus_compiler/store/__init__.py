"""What is already built."""
