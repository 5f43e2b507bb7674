"""Check a data set for what would spoil a score: copies, leaks, wrong labels, unreadable images."""
