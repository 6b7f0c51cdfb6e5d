"""What only a GPU can show, in one command from a plain checkout: see __main__.py."""
