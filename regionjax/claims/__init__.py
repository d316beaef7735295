"""A paper's claims, tried: which runs, what they say, and the table of it."""
