"""What is measured, one module per framework; each is imported in its own process only."""
