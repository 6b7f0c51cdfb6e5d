"""coyo-jobs: labels and embeddings for image-text corpora, every row exactly once."""

__version__ = "0.1.0"
