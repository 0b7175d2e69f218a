"""The commands that ask history, one module each; what they share is in `options`."""
