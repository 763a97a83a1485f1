"""Two campaigns held against each other: `djinn compare A B`."""
