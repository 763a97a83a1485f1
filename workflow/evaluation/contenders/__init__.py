"""The systems that Djinn is compared with, and Djinn: each in a process of its own, all asked the same questions."""
