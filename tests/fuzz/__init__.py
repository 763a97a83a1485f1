"""Bad input for a server: made by kind, handed in with and without a socket, and judged. `python -m fuzz --help`."""
