"""Pure decisions: functions of state, time and event. No I/O, no clock."""
