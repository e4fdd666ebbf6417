"""Programs that show the library at work; each has --seed, sizes and --out."""
