"""Sessions in files that outlive the server: their format, and the state directory that holds them."""
