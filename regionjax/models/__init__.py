"""Flax (linen) building blocks; they know no system, no config file and no data."""
