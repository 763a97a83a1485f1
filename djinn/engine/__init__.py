"""Sessions, their requests, and the one thread that computes."""
