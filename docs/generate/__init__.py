"""What the pages show of the code, made from the code when the site is built."""
