"""What tests share. A test module imports nothing from another test module."""
