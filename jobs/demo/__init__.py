"""The embedded demo: a corpus that can be drawn anywhere, two small checkpoints trained on it, and their training."""
