"""Does a network behave strangely? Triggers found by search, compared with those of clean networks."""
