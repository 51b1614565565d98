"""lab.toml: a template that is valid, and messages that name the key."""

from pathlib import Path

import pytest

from server import settings
from server.errors import LabError


def load(tmp_path: Path, text: str) -> settings.Settings:
    (tmp_path / "lab.toml").write_text(text, encoding="utf-8")
    return settings.load(tmp_path)


def test_the_template_is_valid_and_says_what_it_was_asked(tmp_path: Path) -> None:
    loaded = load(tmp_path, settings.template('a "quoted" name', "tiny", 2.5))
    assert loaded.lab.name == 'a "quoted" name'
    assert (loaded.training.profile, loaded.training.budget_s) == ("tiny", 2.5)


def test_all_sections_but_lab_may_be_left_out(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[lab]\nname = "x"\n')
    assert loaded.training.budget_s == 60.0 and loaded.promotion.min_replicates == 3 and loaded.slots >= 1


def test_a_profile_brings_its_own_budget_device_and_slots(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[lab]\nname = "x"\n[training]\nprofile = "h100"\n')
    assert (loaded.training.budget_s, loaded.device, loaded.slots) == (300.0, "cuda", 1)
    assert "budget_s = 300 " in settings.template("x", "h100")
    set_by_hand = load(tmp_path, '[lab]\nname = "x"\n[training]\nprofile = "h100"\nbudget_s = 60\n[compute]\nslots = 2\n')
    assert (set_by_hand.training.budget_s, set_by_hand.slots) == (60.0, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[training]\nprofile = 'H100'", 'lab.toml: [training] profile must be one of cpu, tiny, h100, got "H100".'),
        ("[training]\nattention = 'flash'", "lab.toml: [training] attention must be 'auto', 'fa3' or 'sdpa', got \"flash\"."),
        ("[budget]\ndevice_hours = -1", "lab.toml: [budget] device_hours must be greater than 0, got -1."),
        ("[promotion]\napproval = 'maybe'", "lab.toml: [promotion] approval must be 'none' or 'human', got \"maybe\"."),
        ("[training]\nbudgets = 5", "lab.toml: [training] budgets is not a known setting"),
        ("[tranning]\nbudget_s = 5", "lab.toml: [tranning] is not a known setting"),
        ("[training]\neditable = ['../train.py']", "lab.toml: [training] editable must hold paths inside the repository"),
        ("[training]\neditable = ['train.py', '.git/config']", "lab.toml: [training] editable must hold paths inside the repository"),
        ("[training]\neditable = ['model.py']", 'lab.toml: [training] editable must contain "train.py"'),
        ("[compute]\nslots = 1.5", "lab.toml: [compute] slots must be"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(LabError) as error:
        load(tmp_path, f'[lab]\nname = "x"\n{line}\n')
    assert message in str(error.value)
    assert error.value.code == "bad_settings"


def test_a_missing_name_broken_toml_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="init") as error:
        settings.load(tmp_path)
    assert error.value.code == "not_a_lab"
    with pytest.raises(LabError, match=r"\[lab\] is missing"):
        load(tmp_path, "[training]\nthreads = 1\n")
    with pytest.raises(LabError, match="not valid TOML"):
        load(tmp_path, "[lab\n")


def test_a_lab_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="newer autoresearch-mcp") as error:
        load(tmp_path, '[lab]\nname = "x"\nschema = 2\nunheard_of = 1\n')
    assert error.value.code == "newer_lab"
