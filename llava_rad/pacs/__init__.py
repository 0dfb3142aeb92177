"""Exchange with archives: images in, reports out."""
