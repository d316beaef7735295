"""From annotation files to batches: sources, records, transforms, loader."""
