"""Turn encoded image bytes into model input pixels: decode each image once, then paint every canvas from it."""
