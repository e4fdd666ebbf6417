"""Writing models: statements, programs and what they mean in one world."""
