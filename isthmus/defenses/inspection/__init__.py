"""Does a network behave strangely? Triggers from a search, compared with those of clean networks."""
