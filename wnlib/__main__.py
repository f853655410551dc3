from wnlib.lab.cli import main

raise SystemExit(main())
