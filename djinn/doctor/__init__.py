"""`djinn doctor`: what is wrong with this machine or this server, and what to do about it."""
