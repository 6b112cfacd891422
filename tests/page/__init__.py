"""The page in a real browser: a node with something to see, and pictures of every page."""
