"""The hot paths: a folder an op, a file a backend."""
