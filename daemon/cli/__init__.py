"""`patchctl`, the command-line client."""
