"""Properties: functions that keep all but one, and functions that keep all of them, and which of them are found."""
