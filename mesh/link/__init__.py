"""Everything that speaks to the broker: the only room that imports `nats`, and the one that runs the embedded server."""
