"""Encoded image bytes to the pixels that models want: decode once, then paint each canvas."""
