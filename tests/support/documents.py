"""Records of certificates, detectors and compressions, with figures made up for the tests."""

from isthmus.metrics.area import Area
from isthmus.metrics.values import Mean, Rate, as_record

ORIGIN = {
    **dict.fromkeys(("isthmus", "torch", "python", "numpy", "platform", "time"), "1"),
    "seed": 0,
    "data": {},
    "checkpoint": {"path": "<b>net.pt", "sha256": 64 * "a"},
}
THRESHOLD = {"value": 1.5, "false_positive_rate": 0.05, "low": 0.02, "high": 0.1, "samples": 150}
CERTIFICATES = {
    "schema": "isthmus-certificate/1",
    "title": "Certificates of <b>net.pt",
    "verdict": "At eps 0.1, half of the answers or more are proved right.",
    "provenance": ORIGIN,
    "certifier": "Interval()",
    "attack": "PGD()",
    "accuracy": as_record(Rate(90, 100)),
    "rows": [
        {
            "eps": eps,
            "certified": as_record(Rate(hits, 100)),
            "attacked": as_record(Rate(80, 100)),
            "gap": 0.8 - hits / 100,
            "seconds_per_sample": 0.001,
        }
        for eps, hits in ((0.1, 60), (0.01, 70))
    ],
    "equilibrium_layers": {
        "core": {"gamma": 0.0, "residual": None, "iterations": 5, "converged": False}
    },
    "limits": ["Nothing of other inputs."],
}


def row(inputs, weight, undetected):
    shares = {name: as_record(Rate(5, 10)) for name in ("detected", "wrong")}
    return {
        "inputs": inputs,
        "weight": weight,
        "auroc": as_record(Area(0.75, 10, 10)),
        **shares,
        "undetected": as_record(Rate(undetected, 10)),
        "quartiles": [1.0, 2.0, 3.0],
    }


DETECTION = {
    "schema": "isthmus-detection/1",
    "title": "Detector of pixels",
    "verdict": "At eps 0.1, 40 % of attacked inputs fool network and detector.",
    "provenance": ORIGIN,
    "detector": {
        "score": "lle",
        "neighbors": 10,
        "layers": [],
        "shape": [1, 8, 8],
        "scales": [1.0],
        "network": None,
        "reference": 64 * "b",
        "reference_samples": 450,
        "threshold": THRESHOLD,
    },
    "evaluations": [
        {
            "eps": 0.1,
            "false_positives": as_record(Rate(1, 10)),
            "clean_quartiles": [0.0, 0.5, 1.0],
            "rows": [
                row("attack", None, 1),
                row("noise", None, 9),
                row("detector-aware attack", 1.0, 2),
                row("detector-aware attack", 10.0, 4),
            ],
        }
    ],
    "limits": ["An input that is not flagged need not be clean."],
}


def side(bytes_, hits):
    return {
        "metrics": {
            "accuracy": as_record(Rate(hits, 100)),
            "loss": as_record(Mean(0.5, 100, 0.1, unit="nats")),
        },
        "bytes": bytes_,
        "multiply-adds": 10_000,
        "multiply-adds with a nonzero weight": 5_000,
        "milliseconds": 0.25,
    }


LAYERS = {"<i>fc": {"units": 40, "kept": 10}, "out": {"units": 8, "kept": 2}}
PRUNED = {
    "kind": "prune",
    "structure": "weights",
    "method": "Magnitude()",
    "density": 0.25,
    "units": 48,
    "kept": 12,
    "layers": LAYERS,
    "loss": "cross_entropy",
    "training": None,
    "gradients": 40,
    "seconds": 1.5,
}
QUANTIZED = {
    **{key: PRUNED[key] for key in ("method", "units", "kept", "loss", "gradients", "seconds")},
    "kind": "quantize",
    "bits": "ternary",
    "choice": "inner",
    "training": "Training(steps=40, lr=0.1)",
    "layers": {name: {**layer, "scale": 0.5} for name, layer in LAYERS.items()},
}
COMPRESSION = {
    "schema": "isthmus-compression/1",
    "title": "Compression of <b>net.pt",
    "verdict": "The file is 4.0 times smaller; clean accuracy goes from 90.0 % to 80.0 %.",
    "provenance": ORIGIN,
    "network": "<b>net.pt",
    "compressed": PRUNED,
    "before": side(4096, 90),
    "after": side(1024, 80),
    "same answers": as_record(Rate(85, 100)),
    "limits": ["PyTorch skips no zeros."],
}
_FIRED = {"name": "zero gradients", "value": 0.9, "threshold": 0.05, "below": False}
_SILENT = {"name": "distinct maxima", "value": None, "threshold": None, "below": False}
_INDICATORS = [
    {**_FIRED, "decisive": True, "fired": True},
    {**_SILENT, "decisive": False, "fired": False},
]
_TEXTS = {"meaning": "it is <i>zero", "advice": "attack with Square", "source": "AutoAttack"}
ATTACK_HEALTH = {
    "trustworthy": False,
    "warnings": ["zero gradients: it is <i>zero; attack with Square"],
    "attack": "PGD()",
    "samples": 100,
    "draws": 20,
    "undecided": 0.25,
    "indicators": _INDICATORS,
}
HEALTH = {
    "schema": "isthmus-health/1",
    "title": "Health of an attack on <b>net.pt",
    "verdict": "Robust accuracy of 60.0 % (60 of 100 samples): not to be trusted, by one sign.",
    "provenance": ORIGIN,
    "attack": "PGD()",
    "accuracy": as_record(Rate(90, 100)),
    "robust": {**as_record(Rate(60, 100)), "health": ATTACK_HEALTH},
    "indicators": [{**row, **_TEXTS} for row in _INDICATORS],
    "gains": [{"step": k, "quartiles": [k / 20, k / 15, k / 10]} for k in (1, 2, 5, 10)],
    "values": [{"step": k, "quartiles": [k / 9, k / 8, k / 7]} for k in range(11)],
    "radii": [{"eps": k / 10, "accuracy": as_record(Rate(20 - k, 25))} for k in range(4)],
    "spreads": [k / 20 for k in range(21)],
    "limits": ["An upper bound."],
}
RECORDS = {
    "health": HEALTH,
    "certificate": CERTIFICATES,
    "detection": DETECTION,
    "compression": COMPRESSION,
    "quantized": {**COMPRESSION, "compressed": QUANTIZED},
}
