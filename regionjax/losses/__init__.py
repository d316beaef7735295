"""Pure functions that return (sum, weight) pairs; the trainer divides once, over everything."""
