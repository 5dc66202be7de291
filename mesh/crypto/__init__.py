"""Keys, signed claims and credentials as NATS writes them. Pure: no file but the one asked for, no clock, no broker."""
