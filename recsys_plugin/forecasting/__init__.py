"""What the coming week brings: demand for each item and category, and when each user buys next."""
