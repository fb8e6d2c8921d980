"""Makes a recorded run again and compares it, and carries a run to another machine in one archive."""
