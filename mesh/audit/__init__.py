"""What the broker recorded of calls, read again: paired, checked for what is missing and for what does not belong there."""
