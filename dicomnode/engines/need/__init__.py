"""NEED: cleaned projections, then a doubly guided refinement (arXiv 2506.22012).

In image mode the projections are those of the image (`spdiff`), in raw mode they were measured (`poisson`,
`raw`); the image stage (`dgdiff`) is the same.
"""
