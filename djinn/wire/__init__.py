"""Frames and messages between client and server: schema-checked, no pickle, no eval."""
