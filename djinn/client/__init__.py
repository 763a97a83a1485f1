"""The client: numpy and ZeroMQ, no torch."""
