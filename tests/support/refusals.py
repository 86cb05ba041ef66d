"""What every refusal of bad input has to be."""

import re

import pytest

from isthmus.types import BadInput


def refused(call, *words):
    """Return the one line with which a call is refused; it says what came, what was expected, and
    the way out.
    """
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert re.fullmatch(r"got .+; expected .+; .+", message), message
    assert all(word in message for word in words), message
    return message
