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

ERROR = "error"
"""Share of the evaluation data that is predicted wrongly."""

ROBUST_LOSS = "robustness loss"
"""Mean loss on evaluation data under attack."""

EVASION = "evasion success"
"""Share of what the network has right that an attack fools."""

LAMBDA_MAX = "lambda_max"
"""Largest eigenvalue of the loss's Hessian in the input, on average over samples."""

GRADIENT_L1 = "gradient l1"
GRADIENT_L2 = "gradient l2"
"""Norms of the loss's gradient in the input, on average over samples."""

ALIGNMENT = "alignment"
"""How much of the gradient lies along the leading eigenvector, on average over samples."""

LOWER = "quadratic loss, lower"
UPPER = "quadratic loss, upper"
"""Bounds of the loss in the ball by its quadratic model."""

LANDSCAPE = (
    LOSS,
    ERROR,
    ROBUST_LOSS,
    EVASION,
    LAMBDA_MAX,
    GRADIENT_L1,
    GRADIENT_L2,
    ALIGNMENT,
    LOWER,
    UPPER,
)
"""The metrics of the landscape, in the order of a report."""

DIVERGENCE = "divergence"
"""How far a network's answers are from the received network's."""

CONFIDENCE = "confidence"
"""Mean probability that a network gives its own answers."""

CALIBRATION_ERROR = "calibration error"
"""How far a network's confidence is from its accuracy, bin by bin."""

STAND_INS = "inverted trigger success"
"""How often the oddest inverted trigger works: a defender's stand-in for the attack success."""

UNIVERSAL = "universal perturbation success"
"""How often the oddest universal perturbations, or a warp, work: a cheaper stand-in."""

SPARSE = "sparse perturbation success"
"""How often a universal perturbation of few pixels works, where no other kind is odd."""

RECALIBRATED = "stand-in success after recalibration"
"""How often what is watched works once BatchNorm's statistics are those of the samples."""
