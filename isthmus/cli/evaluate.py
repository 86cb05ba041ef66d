"""`isthmus evaluate`: one checkpoint, judged."""

from __future__ import annotations

from dataclasses import replace

from isthmus import evidence, metrics, runs
from isthmus.cli.estimate import note_on, parts_of, say_estimate
from isthmus.cli.inputs import load_network
from isthmus.cli.options import EvaluationOptions, Evasion, InputFile, ModelSpec, NewFile
from isthmus.cli.output import metric_table, say, say_health
from isthmus.types import BadInput


def evaluate_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    evaluation: EvaluationOptions = EvaluationOptions(),
    evasion: Evasion = Evasion(),
    out: NewFile | None = None,
) -> None:
    """Measure accuracy, loss, attack success and robustness.

    Prints what CHECKPOINT does on --data, with --trigger, --errors and --attack as far as they are
    given.

    :param checkpoint: The network to measure.
    :param out: A new file for the values (.json).
    """
    evaluation.check()
    if evaluation.data is None:
        raise BadInput(
            "no evaluation data", expected="--data", fix="name a set, a file or a folder"
        )
    judge = evaluation.judge()
    samples = judge.evaluation
    assert samples is not None
    judge = replace(judge, attack=evasion.chosen(samples))
    questions = judge.metrics(samples)
    network = load_network(model, checkpoint)
    evasion.check_layers(network)
    if len(questions) > 1:
        note = note_on(judge.attack)
        say_estimate(network, samples, parts_of(questions), note=note, now=True)
    values = metrics.measure(network, questions)
    if out:
        origin = evidence.provenance(0, judge.data())
        runs.write_json(out, {**metrics.as_records(values), "provenance": origin.record()})
    say(metric_table("network", [(checkpoint.name, values)]))
    say_health([(checkpoint.name, values)])
