"""What a test hears of notices."""

import warnings

from isthmus.runs.notices import Notice


def notices(work):
    """Return what the work returns, and the notices that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    return result, [str(w.message) for w in caught if issubclass(w.category, Notice)]
