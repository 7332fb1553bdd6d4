"""Hostile files: made from good ones by a seeded recipe, and put through everything the node does."""
