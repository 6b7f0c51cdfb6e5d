"""Measurements that need a GPU, in one command from a plain checkout: see __main__.py."""
