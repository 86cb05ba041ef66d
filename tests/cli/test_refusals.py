"""What every command refuses: words it cannot read, files that exist, networks at chance."""

import pytest
from safetensors.torch import load_file, save_file
from support.command_line import MODEL, isthmus, refused


@pytest.mark.parametrize(
    "command",
    [
        ("connect", "chance.safetensors", "a.safetensors", "--out", "never.safetensors"),
        ("connect", "a.safetensors", "chance.safetensors", "--out", "never.safetensors"),
        ("compare", "chance.safetensors", "--out", "never"),
        ("inspect", "chance.safetensors", "--out", "never.json"),
    ],
)
def test_a_network_at_chance_is_refused_before_any_work(command, spoiled):
    assert "chance" in refused(
        spoiled[0], *command, "--model", MODEL, "--clean", "digits:test#n=200"
    )
    assert not list(spoiled[0].glob("never*"))


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("repair", "a.safetensors", "--rho", "nan"), "finite"),
        (("repair", "a.safetensors", "--seed", 2**70), "2^40"),
        (("repair", "a.safetensors", "--kind", "spline"), "bezier"),
        (("repair",), "--tampered"),
        (("repare", "a.safetensors"), "repair"),
        (("repair", "a.safetensors", "--steps", "many"), "many"),
        (("repair", "a.safetensors", "--step", 3), "--step"),
    ],
)
def test_what_the_command_line_cannot_read_is_refused_in_one_line(arguments, says, tmp_path):
    (tmp_path / "a.safetensors").touch()
    found = isthmus(
        *arguments, "--model", MODEL, "--clean", "digits", "--out", "refused", folder=tmp_path
    )
    assert found.returncode == 2 and says in found.stderr and found.stderr.count("\n") == 1, (
        found.stderr
    )


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("repair", LONG, "--model", MODEL, "--clean", "digits", "--out", "o"),
        ("repair", "a.safetensors", "--model", MODEL, "--clean", LONG, "--out", "o"),
        ("repair", "a.safetensors", "--model", MODEL, "--clean", "digits", "--out", LONG),
        ("poison", "digits", "--trigger", "patch", "--target", 1, "--out", f"{LONG}.npz"),
        ("report", LONG, "--out", "o"),
        ("sweep", LONG),
    ],
)
def test_names_that_no_file_system_takes_are_refused(arguments, tmp_path):
    (tmp_path / "a.safetensors").touch()
    assert "a name of 30" in refused(tmp_path, *arguments)


def test_what_is_drawn_or_named_on_the_way_is_not_overwritten_either(home):
    for name in ("kept.npz", "flat-bonafide-accuracy.svg"):
        (home / name).write_text("mine")
    attack = (
        "attack",
        "a.safetensors",
        "--model",
        MODEL,
        "--data",
        "digits:test#n=20",
        "--attack",
        "fgsm",
    )
    plane = (
        "plane",
        *(f"{name}.safetensors" for name in "abc"),
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=20",
    )
    assert "kept.npz, which exists" in refused(home, *attack, "--out", "kept.npz")
    moved = {
        n: v + 0.01 if v.is_floating_point() else v
        for n, v in load_file(home / "a.safetensors").items()
    }
    save_file(moved, home / "c.safetensors")
    assert "flat-bonafide-accuracy.svg, which exists" in refused(
        home, *plane, "--points", 2, "--out", "flat.json"
    )
    assert (
        (home / "kept.npz").read_text()
        == (home / "flat-bonafide-accuracy.svg").read_text()
        == "mine"
    )


@pytest.mark.parametrize("leads", ["itself", "nowhere"])
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("train", "--model", MODEL, "--data", "digits#n=20"), "link, which exists"),
        (
            ("attack", "a.safetensors", "--model", MODEL, "--data", "digits", "--attack", "fgsm"),
            "link, which exists",
        ),
        (("repair", "a.safetensors", "--model", MODEL, "--clean", "digits"), "not an empty folder"),
        (("sweep", "s.toml"), "link"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_link_that_leads_nowhere_is_not_replaced(command, says, leads, tmp_path):
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "s.toml").write_text('job = "json:dumps"\n[[grid]]\nobj = [0]\n')
    link = tmp_path / "link"
    link.symlink_to("link" if leads == "itself" else "nothing")
    assert says in refused(tmp_path, *command, "--out", "link")
    assert link.is_symlink() and not (tmp_path / "nothing").exists()
    if command[0] == "train":
        said = refused(tmp_path, *command, "--out", "link/out.safetensors")
        assert "in a place that cannot be written" in said


def test_results_that_cannot_be_a_folder_are_no_want_of_space(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "s.toml").write_text('job = "json:dumps"\n[[grid]]\nobj = [0]\n')
    said = refused(tmp_path, "sweep", "s.toml", "--out", "file")
    assert "; choose another place" in said and "space" not in said


@pytest.mark.parametrize(
    "command",
    [
        ("poison", "digits:train"),
        ("evaluate", "a.safetensors", "--model", MODEL, "--data", "digits:test"),
        ("align", "a.safetensors", "b.safetensors", "--model", MODEL, "--clean", "digits:test"),
        ("inspect", "a.safetensors", "--model", MODEL, "--clean", "digits:test"),
        ("train", "--model", MODEL, "--data", "digits:train"),
        *(
            (verb, "straight.safetensors", *more, "--model", MODEL, "--clean", "digits:test")
            for verb, more in (("export", ("--t", 0.5)), ("path", ()))
        ),
    ],
)
def test_no_file_is_overwritten(command, straight):
    kept = (straight / "b.safetensors").read_bytes()
    assert "b.safetensors, which exists" in refused(straight, *command, "--out", "b.safetensors")
    assert "pickles" in refused(straight, *command, "--out", "b.pt")
    assert "cannot be written" in refused(straight, *command, "--out", "/proc/b.safetensors")
    assert (straight / "b.safetensors").read_bytes() == kept
