"""One script for each question; RESULTS.md has the answers. Run from the root: python -m benchmarks.NAME"""
