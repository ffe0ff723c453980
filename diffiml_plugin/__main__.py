"""`python -m diffiml_plugin VERB ...`: the command where no console script is at hand."""

from diffiml_plugin.cli.main import main

raise SystemExit(main())
