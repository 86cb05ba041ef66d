"""The job of a sweep that names no function: train under an attack, defend, measure."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from isthmus import attacks as tampering
from isthmus import curves, data, defenses, evidence, metrics, models, runs
from isthmus import training as trainings
from isthmus.cli.words import parse_target, parse_trigger
from isthmus.runs.wording import check_known, suggestion
from isthmus.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from isthmus.data import Data
    from isthmus.evidence import Judge
    from isthmus.types import Defense

NONE = "none"
"""The name of an attack, and of a defense, that changes nothing."""


def trained_and_defended(
    network: str,
    attack: str,
    defense: str,
    seed: int,
    *,
    train: str,
    clean: str,
    test: str,
    attacks: Mapping[str, Mapping[str, Any]],
    training: Mapping[str, Any] | None = None,
    scratch: File,
) -> dict[str, Any]:
    """Train a network on data that an attack has poisoned, defend it, and measure both networks.

    `network` is a factory as for --model. `attack` is a name in `attacks`, whose table has a
    `trigger` and a `target` in words and what `poison` takes (`rate`, `clean_label`, ...), or none.
    `defense` is repair, one of the rivals (docs/defenses.md), or none. `train`, `clean` and `test`
    are samples as for the command line; `training` has fields of `Training`, such as steps and lr.

    The network is trained once for all defenses. Raises BadInput where a name is unknown.
    """
    samples, trusted, evaluation = map(data.load_data, (train, clean, test))
    known = _known(attack, attacks)
    judge = _judge(known, evaluation).apart_from(trusted)
    defend = _defense(defense, seed)
    tampered = _tampered(network, known, seed, samples, training or {}, scratch.parent)
    began = time.perf_counter()
    defended = defend(tampered, trusted)
    seconds = time.perf_counter() - began
    questions = judge.metrics(trusted)
    return {
        **metrics.as_records(metrics.measure(defended, questions)),
        "seconds": seconds,
        "as received": metrics.as_records(metrics.measure(tampered, questions)),
        "provenance": evidence.provenance(seed, {"train": samples, "clean": trusted}).record(),
    }


def _known(attack: str, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the settings of an attack; None where there is none to be."""
    if attack == NONE:
        return None
    if attack not in tables:
        raise BadInput(
            f"attack {attack!r}",
            expected=f"{NONE!r} or a table [settings.attacks.{attack}]",
            fix=suggestion(attack, tables),
        )
    return {"rate": 0.1, "target": "0", **tables[attack]}


def _judge(attack: Mapping[str, Any] | None, evaluation: Data) -> Judge:
    if attack is None:
        return evidence.Judge(evaluation)
    target = parse_target(str(attack["target"]), evaluation.names)
    return evidence.Judge(evaluation, parse_trigger(attack["trigger"]), target)


def _tampered(
    network: str,
    attack: Mapping[str, Any] | None,
    seed: int,
    samples: Data,
    options: Mapping[str, Any],
    folder: File,
) -> nn.Module:
    """Return the network that is defended, after training it where no job of the sweep has yet."""
    import torch

    identity = repr((network, attack, seed, samples.sha256, sorted(options.items())))
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    file = folder / "networks" / f"{name}.safetensors"
    augment = {key: options[key] for key in ("pad", "flip", "border") if key in options}
    plan = trainings.Training(steps=800, lr=0.1, schedule=trainings.one_cycle, nesterov=True)
    plan = plan.replace(
        **{key: value for key, value in options.items() if key not in augment},
        augment=data.Augment(**augment) if augment else None,
        seed=seed,
    )

    def make() -> None:
        torch.manual_seed(seed)
        fresh = models.model_factory(network)()
        state = file.with_suffix(".state")
        trainings.fit(fresh, _poisoned(samples, attack, seed), training=plan, checkpoint=state)
        models.save_checkpoint(fresh, file)
        state.unlink(missing_ok=True)

    return models.load_checkpoint(runs.once(file, make), models.model_factory(network)())


def _poisoned(samples: Data, attack: Mapping[str, Any] | None, seed: int) -> Data:
    import torch

    if attack is None:
        return samples
    options = {key: value for key, value in attack.items() if key not in ("trigger", "target")}
    return tampering.poison(
        samples,
        parse_trigger(attack["trigger"]),
        target=parse_target(str(attack["target"]), samples.names),
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def _defense(name: str, seed: int) -> Defense | Callable[[nn.Module, Data], nn.Module]:
    """Return a defense by its name, a rival at the largest budget that a repair may take."""
    check_known("defense", name, (NONE, "repair", *defenses.RIVAL_NAMES))

    def within_budget(tampered: nn.Module, trusted: Data) -> nn.Module:
        budget = curves.network_budget(curves.CURVE_TRAINING, cost=curves.DEFAULT_ROUTE.cost)
        steps = defenses.unlearned_copy(tampered, trusted).gradients
        defense = defenses.rival(name, budget.replace(seed=seed, steps=steps))
        return defense(tampered, trusted)

    if name == NONE:
        return lambda tampered, trusted: tampered
    if name == "repair":
        return lambda tampered, trusted: defenses.repair(tampered, trusted, seed=seed).model
    return within_budget
