"""Programs in, programs out: populations, resampling, exact enumeration."""
