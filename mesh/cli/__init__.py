"""The command line: Typer and Rich, one file a command group. It renders what mesh.admin snapshots and decides nothing."""
