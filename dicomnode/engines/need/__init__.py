"""NEED in image mode: cleaned projections, then a doubly guided refinement (arXiv 2506.22012)."""
