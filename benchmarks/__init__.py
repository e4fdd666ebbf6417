"""Scripts that measure what the library claims; each writes its rows as JSON. `README.md` says how to run them."""
