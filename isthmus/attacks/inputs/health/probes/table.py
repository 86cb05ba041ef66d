"""The indicators that take further passes, in the order in which they are run."""

from __future__ import annotations

from isthmus.attacks.inputs.health.indicator import Indicator
from isthmus.attacks.inputs.health.probes import inside, roughness, stronger

_MEASURED = "measured, docs/results/attack_health.md"

PROBES = (
    Indicator(
        "longer attack ahead",
        stronger.longer_attack,
        0.05,
        _MEASURED,
        "PGD on the margin with 20 steps fools samples that the attack did not",
        "take more steps, or the margin as objective",
    ),
    Indicator(
        "black box ahead",
        stronger.black_box,
        0.01,
        "AutoAttack: Square ahead by 0.2 points; a point leaves room for the 30 queries of a probe",
        "Square, which sees no gradient, fools samples that the attack did not",
        "the gradient is masked: report Square's number",
    ),
    Indicator(
        "rescaled logits",
        stronger.rescaled,
        0.03,
        _MEASURED,
        "the attack fools more once the logits are shifted and scaled",
        "the logits' size hides the gradient: attack the margin or DLR, or rescale the logits",
    ),
    Indicator(
        "transfer ahead",
        stronger.transfer,
        0.05,
        _MEASURED,
        "points found on a blurred copy of the network fool samples that the attack did not",
        "the gradient is noisy: average it over noise around the input",
    ),
    Indicator(
        "unconstrained attack fails",
        stronger.unconstrained,
        0.05,
        "Pintor et al. warn from one sample on; here the lower end of an interval",
        "PGD that may go anywhere leaves samples right",
        "the gradient leads nowhere: attack with Square, or a straight-through gradient",
    ),
    Indicator(
        "rising in eps",
        stronger.rising,
        0.0,
        "a larger ball holds the smaller one; the intervals do not overlap",
        "robust accuracy rises with the radius",
        "the attack fails at the larger radius: scale its step with eps",
    ),
    Indicator(
        "flat in eps",
        stronger.flat,
        0.95,
        _MEASURED,
        "robust accuracy hardly falls from half the radius to four times it",
        "try a radius at which it falls before this one is believed",
        decisive=False,
    ),
    Indicator(
        "eps 0 differs",
        stronger.changed_by_nothing,
        0.005,
        "an attack that may not move changes no answer; half a percent leaves room for rounding",
        "answers change at eps = 0",
        "the attack leaves its ball, or the network is random",
    ),
    Indicator(
        "unstable predictions",
        roughness.roughness,
        1.3,
        "measured, docs/results/attack_health.md; after Pintor et al.",
        "predictions jump around the inputs, and gradients there say nothing of them",
        "average gradients over noise around the input, or attack with Square",
    ),
    Indicator(
        "gradients inside the network",
        inside.gradients_inside,
        0.5,
        "AutoAttack: any",
        "the network computes gradients in its forward pass, and may adapt to its input",
        "attack the whole of it, adaptation included, as Croce et al. (ICML 2022) do",
    ),
)
