"""The verdict: a pure function of the record, every branch of it."""

import shlex
import sys

import pytest
from support.records import example, variant

from isthmus.evidence import waking
from isthmus.evidence.commands import next_command
from isthmus.evidence.origin import provenance, typed_command
from isthmus.evidence.record import Report, Value
from isthmus.evidence.text import verdict_lines
from isthmus.evidence.verdict import (
    ACCEPTABLE,
    COMES_BACK,
    COSTLY,
    DECISIONS,
    LOST,
    STILL_WORKS,
    UNSURE,
    cost_interval,
    decide,
    in_one_sentence,
)
from isthmus.metrics import Rate, as_record, paired_drop

N = 5000


def share(value, n=N):
    return as_record(Rate(round(value * n), n))


def record(
    *,
    before=0.87,
    after=0.86,
    success=(0.99, 0.01),
    recovery=0.8,
    n=N,
    lost=None,
    evaluation=True,
    trigger=True,
    confident=True,
):
    """A report of a repair with these figures; by default a good one."""
    made = variant(example(), evaluation=evaluation, trigger=trigger, confident=confident)
    for part in ("answers", "preflight", "found_trigger"):
        del made[part]
    made["permanence"].pop("queries", None)
    made["path"]["values"]["divergence"] = made["path"]["values"]["bonafide loss"]
    name = "accuracy" if evaluation else "bonafide accuracy"
    made["before"][name], made["after"][name] = share(before, n), share(after, n)
    if trigger:
        made["before"]["attack success"] = share(success[0], n)
        made["after"]["attack success"] = share(success[1], n)
        made["after"]["recovery accuracy"] = share(recovery, n)
        for row in made["permanence"]["reactivation"]:
            row["attack success"] = share(0.1)
    if lost is not None:
        made["answers"] = {"n": n, "lost": lost, "gained": 0}
    return made


def decided(made):
    return decide(Report.read(made))


def test_the_thresholds_lie_as_their_reasons_say():
    assert 0 < UNSURE <= ACCEPTABLE / 2 < ACCEPTABLE < COSTLY < 1
    assert 0 < STILL_WORKS < COMES_BACK <= 1 and 0 < LOST < 1
    assert DECISIONS == ("use", "use with care", "do not use")


def test_a_trigger_that_is_gone_at_a_small_cost_is_used():
    found = decided(record())
    assert found.decision == "use" and len(found.reasons) == 1
    assert "no longer works" in found.reasons[0] and "detect fit" in found.next


CASES = {
    "no number": ({}, "do not use", "not a number", "compare"),
    "chance": ({"after": 0.1}, "do not use", "better than a guess", "compare"),
    "costly": ({"after": 0.7}, "do not use", "10.0 points", "compare"),
    "dear": ({"after": 0.79}, "use with care", "5.0 points of accuracy, beyond", "compare"),
    "perhaps dear": (
        {"after": 0.81, "n": 300},
        "use with care",
        "seems to cost more than 5.0",
        "compare",
    ),
    "few samples": ({"n": 100}, "use with care", "do not exclude a cost", "evaluate"),
    "backdoor": ({"success": (0.99, 0.4)}, "do not use", "still works", "compare"),
    "perhaps": ({"success": (0.99, 0.1)}, "use with care", "do not exclude attack", "evaluate"),
    "never": ({"success": (0.02, 0.01)}, "use with care", "no higher before", "evaluate"),
    "unseen": ({"trigger": False}, "use with care", "trigger was given, so nobody", "inspect"),
    "spoiled": ({"recovery": 0.3}, "use with care", "their true class in 30.0", "compare"),
    "untested": (
        {"evaluation": False, "confident": False},
        "use with care",
        "could not choose t",
        "evaluate",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_ground_and_its_next_step(name):
    how, decision, says, command = CASES[name]
    made = record(**how)
    if name == "no number":
        made["after"]["accuracy"] = {"value": None}
    found = decided(made)
    reasons = [reason.replace("\u00a0", " ") for reason in found.reasons]
    assert found.decision == decision and len(reasons) == 1, reasons
    assert says in reasons[0]
    assert shlex.split(found.next)[:2] == ["isthmus", command]


@pytest.mark.parametrize("success", [{"value": None}, {"value": 0.01}])
def test_a_success_without_a_number_or_an_interval_is_no_success_of_the_repair(success):
    made = record()
    made["after"]["attack success"] = success
    found = decided(made)
    assert found.decision == "do not use" and "attack success is not a number" in found.reasons[0]


def test_injected_errors_are_judged_as_a_trigger_is():
    made = record(trigger=False)
    made["before"]["injection success"] = share(0.95, 100)
    made["after"]["injection success"] = share(0.5, 100)
    found = decided(made)
    assert found.decision == "do not use" and "injected errors still work" in found.reasons[0]
    made["after"]["injection success"] = share(0.0, 100)
    assert decided(made).decision == "use"


@pytest.mark.parametrize(
    ("about", "concern", "decision"),
    [
        ("samples", True, "use with care"),
        ("samples", False, "use"),
        ("choice", True, "use"),
        ("network", True, "use"),
    ],
)
def test_doubts_about_the_trusted_samples_ask_for_care(about, concern, decision):
    made = record()
    made["preflight"] = {
        "findings": [{"text": "seven labels are odd", "concern": concern, "about": about}],
        "foreign": 0,
        "doubted": 0,
        "statistics": "none",
        "recalibrated": share(0.87),
    }
    found = decided(made)
    assert found.decision == decision
    assert ("seven labels are odd" in " ".join(found.reasons)) == (decision != "use")
    made["preflight"]["foreign"] = 9
    assert "9 trusted samples look like no other" in " ".join(decided(made).reasons)
    assert "repair" in decided(made).next


def test_the_gravest_ground_decides_and_all_of_its_weight_are_said():
    found = decided(record(after=0.5, success=(0.99, 0.9), recovery=0.01))
    assert found.decision == "do not use" and len(found.reasons) == 2


def test_an_untested_choice_does_not_matter_where_evaluation_data_judge_the_network():
    found = decided(record(confident=False))
    assert found.decision == "use"
    assert any("how far to go (t) is not certain" in warning.lower() for warning in found.warnings)


def test_a_repair_of_a_hundred_to_eight_percent_has_a_verdict():
    """It was announced as: the samples cannot tell, t = 1."""
    found = decided(
        record(before=0.822, after=0.761, success=(1.0, 0.077), n=2000, confident=False)
    )
    assert found.decision == "use with care" and "6.1 points" in found.cost


def test_the_cost_is_paired_where_the_changed_answers_are_known():
    wide = cost_interval(Report.read(record(n=500)))
    narrow = cost_interval(Report.read(record(n=500, lost=5)))
    assert narrow == paired_drop(5, 0, 500) and narrow[1] - narrow[0] < wide[1] - wide[0]
    assert wide[0] < 0.01 < wide[1] and narrow[0] < 0.01 < narrow[1]
    assert decided(record(n=500)).decision != decided(record(n=500, lost=5)).decision


def test_what_is_not_known_is_said():
    unknown = decided(record(trigger=False, evaluation=False, n=100)).unknown
    assert any("no trigger was given" in line for line in unknown)
    assert any("no evaluation data" in line for line in unknown)
    assert any("few samples" in line for line in unknown)
    (only,) = decided(record()).unknown
    assert "another trigger or target" in only
    made = record()
    made["found_trigger"] = {
        "png": "aaaa",
        "kind": "patch",
        "target": "cat",
        "size": 2.0,
        "success": share(0.9),
        "decision": "cannot tell",
        "reason": "no references",
    }
    assert any("no clean networks" in line for line in decided(made).unknown)


def test_where_nothing_resembles_a_trigger_the_network_may_be_kept():
    clean = "it may be kept as it was received"
    made = record(trigger=False)
    assert any(clean in line for line in decided(made).unknown)
    assert not any(clean in line for line in decided(record()).unknown)  # a trigger is known
    path = made["path"]
    path["values"]["universal perturbation success"] = [share(0.5)] * len(path["t"])
    assert not any(clean in line for line in decided(made).unknown)
    made["found_trigger"] = {
        "png": "aaaa",
        "kind": "perturbation",
        "target": "cat",
        "size": 2.0,
        "success": share(0.9),
        "decision": "suspicious",
        "reason": "a small one",
    }
    assert any("the backdoor toward cat that is suspected" in x for x in decided(made).unknown)


def test_a_backdoor_that_recalibration_brings_back_is_one_to_be_careful_with():
    made = record()
    assert decided(made).decision == "use"
    names = ("accuracy", "attack success", "bonafide accuracy")
    values = {name: share(0.9 if "accuracy" in name else 0.34, 500) for name in names}
    part = {"name": "recalibration alone", "settings": "", "repaired": values}
    made["permanence"]["compressed"] = [part]
    found = decided(made)
    assert found.decision == "use with care"
    assert any("recalibrating its batchnorm brings back" in x.lower() for x in found.reasons)


def test_samples_that_trained_are_not_called_held_out():
    made = record(evaluation=False, trigger=False, n=30)
    assert "held-out bonafide samples" in decided(made).cost
    made["curve"]["holdout"] = 0.0
    assert "bonafide samples that trained it, too" in decided(made).cost
    assert "held-out" not in decided(made).cost


CURVE = "curve to permuted copy"


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        (CURVE, 200, ""),
        (CURVE, 12, "a curve took 12 steps, where the default is 200"),
        ("UniversalUnlearning", 450, ""),
        ("UniversalUnlearning", 112, "took 112 gradients, where the default is 450"),
        ("FTSAM", 66, ""),  # half of a mean of two repairs, at its default
    ],
)
def test_a_training_far_shorter_than_by_default_is_a_warning(name, steps, said):
    made = record()
    row = {"lr": 0.05, "batch_size": 128, "weight_decay": 0.0, "precision": "fp32"}
    made["trainings"] = [{"name": name, "steps": steps, "gradients": steps, **row}]
    found = decided(made)
    assert said in "".join(found.warnings) and bool(found.warnings) == bool(said)
    assert found.decision == "use"


def test_a_path_without_stand_ins_leaves_them_unknown():
    made = record()
    assert not any("resemble" in line for line in decided(made).unknown)
    del made["path"]["values"]["divergence"]
    made["provenance"]["other"] = {"kind": "unlearned copy: universal perturbations are lost"}
    assert not any("resemble" in line for line in decided(made).unknown)
    made["provenance"]["other"] = {"kind": "permuted copy; unlearned copy cost too much accuracy"}
    assert any("resemble a trigger" in line for line in decided(made).unknown)


def test_images_of_an_error_are_no_trigger():
    made = record(trigger=False)
    for part, value in (("before", 0.99), ("after", 0.02)):
        made[part]["injection success"] = share(value)
    assert any("only the images of an error" in line for line in decided(made).unknown)


def test_a_backdoor_that_comes_back_is_a_warning_with_the_fewest_images():
    made = record()
    for row, value in zip(made["permanence"]["reactivation"], (0.1, 0.56, 0.9), strict=True):
        row["attack success"] = share(value)
    found = decided(made)
    (warning,) = found.warnings
    assert "5 triggered images" in warning and "56.0" in warning and found.decision == "use"
    assert warning.startswith("The backdoor comes back")
    made["after"]["attack success"] = share(0.9)
    assert not any("easily" in line for line in decided(made).warnings), "it has not gone"
    made["after"]["attack success"] = share(0.01)
    made["before"]["attack success"] = share(0.01)
    warning = next(line for line in decided(made).warnings if "easily" in line)
    assert warning.startswith("The trigger is learned"), "nothing was there to come back"


@pytest.mark.parametrize(
    ("triggered", "clean", "alone", "wakes"),
    [
        (0.9, 0.2, 0.01, True),
        (0.9, 0.9, 0.01, False),
        (0.3, 0.0, 0.01, False),
        (0.9, 0.89, 0.01, False),
        (0.556, 0.1, 0.565, False),  # the trigger does it without queries
        (0.556, 0.1, 0.54, False),
        (0.556, 0.1, 0.3, True),
    ],
)
def test_queries_wake_a_trigger_where_they_do_more_than_without_it(triggered, clean, alone, wakes):
    """And more than it does without them."""
    made = record(success=(0.99, alone))
    made["permanence"]["queries"] = {
        "queries": 300,
        "images": 50,
        "eps": 0.0627,
        "triggered": share(triggered, 500),
        "clean": share(clean, 500),
    }
    assert any("Queries alone" in line for line in decided(made).warnings) is wakes


@pytest.mark.parametrize(
    ("success", "accuracy", "warns"), [(0.9, 0.8, True), (0.9, 0.3, False), (0.3, 0.8, False)]
)
@pytest.mark.parametrize("side", ["received", "repaired"])
def test_a_backdoor_that_compression_wakes_is_a_warning(side, success, accuracy, warns):
    made = record(success=(0.02, 0.01))
    small = {"accuracy": share(accuracy), "bonafide accuracy": share(accuracy)}
    small["attack success"] = share(success)
    made["permanence"]["compressed"] = [
        {"name": "rounding to 8 bits", "settings": "Rounded(bits=8)", side: small}
    ]
    lines = [line for line in decided(made).warnings if "Rounding to 8 bits wakes" in line]
    assert bool(lines) is warns
    assert all(("received" in line) == (side == "received") for line in lines)


def test_what_recalibration_alone_wakes_is_not_laid_to_compression():
    made = record(success=(0.99, 0.01))
    small = {name: share(0.8) for name in ("accuracy", "bonafide accuracy", "attack success")}
    made["permanence"]["compressed"] = [
        {"name": name, "settings": "", "repaired": small}
        for name in ("recalibration alone", "rounding to 8 bits")
    ]
    found = decided(made)
    assert not any("wakes" in line for line in found.warnings)  # it is a reason
    (line,) = [line for line in found.reasons if "wakes" in line]
    assert line.startswith("Recalibrating its BatchNorm wakes a backdoor")


def values(success, accuracy=0.95, n=500):
    measured = {"accuracy": share(accuracy, n), "attack success": share(success, n)}
    return {name: Value.model_validate(value) for name, value in measured.items()}


@pytest.mark.parametrize(
    ("whole", "control", "small", "wakes"),
    [
        (values(0.02), None, values(0.2), True),
        (values(0.02), None, values(0.03), False),  # the intervals overlap
        (values(0.02), None, values(0.2, n=5), False),
        (values(0.02), values(0.18), values(0.2), False),  # recalibration does as much
        (values(0.02), values(0.1), values(0.2), True),
        (values(0.5), values(0.02), values(0.2), False),  # less than without compression
        (values(0.02), None, values(0.2, accuracy=0.8), False),  # mistakes may be the target
        (values(0.02), None, values(0.55, accuracy=0.5), False),
        (values(0.02), None, values(0.11), False),  # as whole-image triggers mislead any network
        (values(0.02, accuracy=0.8), None, values(1.0, accuracy=0.39), False),  # one answer to all
        (values(0.02, accuracy=0.8), None, values(1.0, accuracy=0.41), True),
        (values(0.6), None, values(0.95), False),  # it obeys without compression
        (values(0.02), values(0.02, accuracy=0.1), values(1.0, accuracy=0.3), False),
        (values(0.02), None, {}, False),
        ({}, None, values(0.9), False),
    ],
)
def test_a_compression_wakes_a_backdoor_where_it_does_more_than_its_control(
    whole, control, small, wakes
):
    compressed = {"pruning": small}
    if control is not None:
        compressed["recalibration alone"] = control
    assert ("pruning" in waking(whole, compressed)) is wakes


def test_recalibration_is_compared_with_the_whole_network():
    compressed = {"recalibration alone": values(0.9), "pruning": values(0.9)}
    assert waking(values(0.02), compressed) == {"recalibration alone": "wakes a backdoor"}


@pytest.mark.parametrize(
    ("success", "accuracy", "warns"),
    [
        (0.9, 0.8, "wakes a backdoor"),
        (0.48, 0.8, "brings back part of a backdoor"),
        (0.48, 0.5, ""),  # mistakes may lead to the target
        (0.09, 0.99, ""),  # as whole-image triggers mislead any network
        (0.6, 0.7, "wakes a backdoor"),
        (0.51, 0.45, ""),
    ],
)
def test_a_compression_that_raises_attack_success_is_a_warning(success, accuracy, warns):
    made = record(success=(0.02, 0.001))
    right = {name: share(accuracy) for name in ("accuracy", "bonafide accuracy")}
    small = {**right, "attack success": share(success)}
    part = {"name": "pruning by 90 %", "settings": "", "repaired": small}
    made["permanence"]["compressed"] = [part]
    words = " ".join(decided(made).warnings).replace("\u00a0", " ")
    if not warns:
        assert "backdoor" not in words
        return
    assert words.startswith(f"Pruning by 90 % {warns} in the repaired network: attack success ")


def test_few_samples_and_what_the_control_does_too_are_no_warning():
    made = record(success=(0.02, 0.01))
    names = ("accuracy", "bonafide accuracy", "attack success")
    parts = {
        "recalibration alone": {name: share(0.49) for name in names},
        "rounding to 8 bits": {name: share(0.51) for name in names},
    }
    made["permanence"]["compressed"] = [
        {"name": name, "settings": "", "repaired": small} for name, small in parts.items()
    ]
    assert not any("wakes" in line for line in decided(made).warnings)


def test_a_network_that_obeys_anyway_is_not_woken_by_compression():
    made = record(success=(0.99, 0.01))
    small = {name: share(0.9) for name in ("accuracy", "bonafide accuracy", "attack success")}
    part = {"name": "rounding to 8 bits", "settings": "", "received": small}
    made["permanence"]["compressed"] = [part]
    assert not any("wakes" in line for line in decided(made).warnings)


def test_the_sentence_opens_with_the_decision_and_hides_nothing():
    said = in_one_sentence(Report.read(record(success=(0.99, 0.4)))).replace("\u00a0", " ")
    assert said == (
        "Do not use: attack success 99.0 % before, 40.0 % after; "
        "accuracy 87.0 % before, 86.0 % after."
    )


def test_the_next_command_is_that_of_the_run():
    made = record(trigger=False)
    made["provenance"]["command"] = (
        "isthmus repair got.safetensors --model=nets:build,width=8 --resize 32 --clean 'my images' "
        "--flip --data test --trigger patch --target 1 --out done"
    )
    assert shlex.split(decided(made).next) == [
        "isthmus",
        "inspect",
        "done/repaired.safetensors",
        "--model",
        "nets:build,width=8",
        "--resize",
        "32",
        "--clean",
        "my images",
    ]
    del made["provenance"]["command"]
    assert "PKG.MODULE:FACTORY" in decided(made).next


def test_a_terminal_has_the_paths_as_typed_and_a_record_says_what_it_leaves_out(monkeypatch):
    """Else the command to run next would look for the files where it is run."""
    typed = [
        "isthmus",
        "repair",
        "/mnt/in/got.pt",
        "--model",
        "nets:build",
        "--clean=/mnt/a/train.parquet",
    ]
    made = record(trigger=False)
    monkeypatch.setattr(sys, "argv", [*typed, "--out", "/mnt/done"])
    made["provenance"]["command"] = provenance(0, {}).command
    made["provenance"]["checkpoint"]["path"] = "got.pt"
    made["decision"] = None
    report = Report.read(made)
    said = (
        "isthmus inspect {0}done/repaired.safetensors --model nets:build --clean {1}train.parquet"
    )
    assert report.run_by(typed_command()).provenance.command.split()[2] == "/mnt/in/got.pt"
    assert decide(report).next == said.format(".../", ".../")
    assert verdict_lines(report)[-1] == f"  next: {decide(report).next}"
    last = verdict_lines(report, typed_command())[-1]
    assert last == f"  next: {said.format('/mnt/', '/mnt/a/')}"
    assert "/mnt" not in report.model_dump_json()


def test_the_received_network_is_that_of_the_command(monkeypatch):
    made = Report.read(record()).provenance.model_copy(
        update={"command": "isthmus repair .../got.pt --model m:f --clean c --out o"}
    )
    held = made.checkpoint.model_copy(update={"path": "got.pt"})
    line = next_command(made.model_copy(update={"checkpoint": held}), "compare")
    assert line.startswith("isthmus compare .../got.pt --model m:f")


def test_the_command_that_measures_again_keeps_the_trigger_and_asks_for_more_images():
    made = record(n=100)
    attack = "--trigger patch --target 1"
    made["provenance"]["command"] = f"isthmus repair a.pt --model m:f --clean c --out o {attack}"
    assert decided(made).next == (
        "isthmus evaluate o/repaired.safetensors --model m:f --data MORE_IMAGES "
        "--trigger patch --target 1"
    )


def test_it_reads_neither_itself_nor_the_sentence():
    made = record()
    found = decided(made)
    made["verdict"] = "something else"
    made["decision"] = {**found.record(), "decision": "do not use"}
    assert decided(made) == found
