"""What the metrics of a report are called in records, in one place."""

ACCURACY = "accuracy"
"""Accuracy on evaluation data."""

BONAFIDE_ACCURACY = "bonafide accuracy"
"""Accuracy on bonafide samples that the curve was not trained on: what rules for t read."""

ROBUST_ACCURACY = "robust accuracy"
"""Accuracy on evaluation data under attack."""

ATTACK_SUCCESS = "attack success"
"""Share of triggered inputs that are sent to the attacker's target."""

RECOVERY = "recovery accuracy"
"""Share of triggered inputs that are predicted as their true class."""

INJECTION_SUCCESS = "injection success"
"""Share of the images with an injected error that still show it."""

LOSS = "loss"
"""Mean loss on evaluation data."""

BONAFIDE_LOSS = "bonafide loss"
"""Mean loss on bonafide samples."""

CONFIDENCE = "confidence"
"""Mean probability that a network gives its own answers."""

CALIBRATION_ERROR = "calibration error"
"""How far a network's confidence is from its accuracy, bin by bin."""
