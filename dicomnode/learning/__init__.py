"""Making and judging models. Never imported by the running node."""
