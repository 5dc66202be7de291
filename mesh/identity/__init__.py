"""Who may be on the mesh: keys and credentials in the state directory, and what of them the broker is told."""
