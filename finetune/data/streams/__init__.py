"""Data sets that are larger than the disk: read from their beginning to their end, again and again."""
