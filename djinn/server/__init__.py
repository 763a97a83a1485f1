"""The server process: wire and engine put together."""
