"""One verb, method objects, one result type."""
