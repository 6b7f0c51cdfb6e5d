"""The sections of a recipe: every key, its default, its unit, and what it may not be."""
