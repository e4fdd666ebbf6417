"""`python -m probinf` is the command `probinf`, where that is not on the path."""

from probinf.cli import main

raise SystemExit(main())
