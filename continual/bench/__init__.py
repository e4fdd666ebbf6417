"""The command `probinf bench continual`: named learners on named benchmarks, over seeds, with a report page."""
