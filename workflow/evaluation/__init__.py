"""The evaluation of Djinn: what the workflow's rules measure, draw and claim. It imports djinn; djinn never imports it."""
