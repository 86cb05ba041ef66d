"""Does a network behave strangely? Triggers from a search beside those of clean networks."""
