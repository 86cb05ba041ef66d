"""What the metrics of a report are called in records, in one place."""

ACCURACY = "accuracy"
"""Accuracy on evaluation data."""

BONAFIDE_ACCURACY = "bonafide accuracy"
"""Accuracy on bonafide samples that the curve was not trained on: what rules for t read."""

ROBUST_ACCURACY = "robust accuracy"
"""Accuracy on evaluation data under attack."""

ATTACK_SUCCESS = "attack success"
"""Share of triggered inputs that are sent to the attacker's target."""

INJECTION_SUCCESS = "injection success"
"""Share of the images with an injected error that still show it."""

LOSS = "loss"
"""Mean loss on evaluation data."""

BONAFIDE_LOSS = "bonafide loss"
"""Mean loss on bonafide samples."""
