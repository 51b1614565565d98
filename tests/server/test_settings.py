"""lab.toml: a template that is valid, and messages that name the key."""

from pathlib import Path

import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.errors import LabError
from tests.reference import sections


def load(tmp_path: Path, text: str) -> settings.Settings:
    (tmp_path / "lab.toml").write_text(text, encoding="utf-8")
    return settings.load(tmp_path)


def test_the_template_is_valid_and_says_what_it_was_asked(tmp_path: Path) -> None:
    loaded = load(tmp_path, settings.template('a "quoted" name', "tiny", 2.5))
    assert loaded.lab.name == 'a "quoted" name'
    assert (loaded.training.profile, loaded.training.budget_s) == ("tiny", 2.5)


def test_all_sections_but_lab_may_be_left_out(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[lab]\nname = "x"\n')
    assert loaded.training.budget_s == 60.0 and loaded.promotion.level_per_candidate == 0.005 and loaded.slots >= 1


@pytest.mark.parametrize("level", [1e-9, 0.4])
def test_any_level_of_the_gate_works(tmp_path: Path, level: float) -> None:
    loaded = load(tmp_path, f'[lab]\nname = "x"\n[promotion]\nlevel = {level}\nmax_replicates = 3\n')
    assert (loaded.promotion.level_per_candidate, loaded.promotion.max_replicates, loaded.promotion.notice()) == (level, 3, "")


def test_the_settings_of_the_gate_before_are_read_by_the_new_rule_with_a_notice(tmp_path: Path) -> None:
    old = load(tmp_path, '[lab]\nname = "x"\n[promotion]\nlevel = 0.02\nmin_replicates = 5\n').promotion
    assert old.level_per_candidate == pytest.approx(0.002) and "level = 0.02 is read as 0.002" in old.notice()


def test_a_profile_brings_its_own_budget_device_and_slots(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[lab]\nname = "x"\n[training]\nprofile = "h100"\n')
    assert (loaded.training.budget_s, loaded.device, loaded.slots) == (300.0, "cuda", 1)
    assert "budget_s = 300 " in settings.template("x", "h100")
    set_by_hand = load(tmp_path, '[lab]\nname = "x"\n[training]\nprofile = "h100"\nbudget_s = 60\n[compute]\nslots = 2\n')
    assert (set_by_hand.training.budget_s, set_by_hand.slots) == (60.0, 2)


def test_devices_are_rented_by_kind_at_the_labs_own_prices(tmp_path: Path) -> None:
    text = '[lab]\nname = "x"\n[training]\nprofile = "h100"\n[compute]\nbackend = "modal"\n'
    plain, chosen = load(tmp_path, text), load(tmp_path, text + 'gpus = ["H100", "L4"]\nslots = 10\n[compute.prices]\nL4 = 0.001\n')
    assert (plain.devices, plain.slots) == (("h100",), 4) and plain.usd_per_s("h100") > 0.001
    assert (chosen.devices, chosen.slots, chosen.usd_per_s("l4")) == (("h100", "l4"), 10, 0.001)
    cpu = load(tmp_path, '[lab]\nname = "x"\n[compute]\nbackend = "modal"\n')
    assert cpu.devices == ("cpu",) and cpu.usd_per_s("cpu") > 0
    local = load(tmp_path, '[lab]\nname = "x"\n')
    assert local.usd_per_s("cpu") == 0 and local.longest_s() < cpu.longest_s()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "[training]\nprofile = 'H100'",
            'lab.toml: [training] profile must be one of cpu, tiny, h100, gpu, mps, or the NAME of a [profile.NAME], got "H100".',
        ),
        ("[training]\nattention = 'flash'", "lab.toml: [training] attention must be 'auto', 'fa3' or 'sdpa', got \"flash\"."),
        ("[budget]\ndevice_hours = -1", "lab.toml: [budget] device_hours must be greater than 0, got -1."),
        ("[budget]\ndevice_hours = nan", "lab.toml: [budget] device_hours must be a finite number, got NaN."),
        ("[budget]\nusd = inf", "lab.toml: [budget] usd must be a finite number, got Infinity."),
        ("[training]\nbudget_s = nan", "lab.toml: [training] budget_s must be a finite number, got NaN."),
        ("[compute.prices]\nH100 = nan", "lab.toml: [compute] prices must be a finite number, got NaN."),
        ("[promotion]\napproval = 'maybe'", "lab.toml: [promotion] approval must be 'none' or 'human', got \"maybe\"."),
        ("[promotion]\nlevel = 0.5", "lab.toml: [promotion] level must be less than 0.5, got 0.5."),
        ("[promotion]\nlevel = 1e-12", "lab.toml: [promotion] level must be greater than or equal to 0.000000001, got 1e-12."),
        ("[promotion]\nmax_replicates = 2", "lab.toml: [promotion] max_replicates must be greater than or equal to 3, got 2."),
        ("[budget]\nuds = 5", "lab.toml: [budget] uds is not a known setting. Remove it, or correct it to one of: device_hours, usd."),
        ("[tranning]\nbudget_s = 5", "lab.toml: [tranning] is not a known setting. Remove it, or correct it to one of: lab, training,"),
        ("[training]\neditable = ['../train.py']", "lab.toml: [training] editable must hold paths inside the repository"),
        ("[training]\neditable = ['train.py', '../*.py']", "lab.toml: [training] editable must hold paths inside the repository"),
        ("[training]\neditable = ['train.py', '.git/config']", "lab.toml: [training] editable must hold paths inside the repository"),
        ("[training]\neditable = ['model.py']", 'lab.toml: [training] editable must contain "train.py"'),
        ("[compute]\nslots = 1.5", "lab.toml: [compute] slots must be"),
        ("[compute]\ngpus = ['H100', 'h200']", "lab.toml: [compute] gpus must name kinds out of CPU, T4,"),
        ("[compute.prices]\nH100 = -1", "lab.toml: [compute] prices must be greater than 0, got -1."),
        ("[compute]\nbackend = 'modal'\ngpus = ['H100']", "[compute] gpus must be \"CPU\", which the profile 'cpu' is made for."),
        ("[budget]\nusd = 0", "lab.toml: [budget] usd must be greater than 0, got 0."),
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


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, '\ufeff[lab]\nname = "x"\n').lab.name == "x"


def test_a_file_in_another_encoding_asks_for_utf_8_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('[lab]\nname = "x"\n', encoding="utf-16")
    with pytest.raises(LabError, match=r"lab\.toml is not UTF-8 text: save it with the encoding UTF-8") as error:
        settings.load(tmp_path)
    assert error.value.code == "bad_settings"


def test_every_key_says_what_it_means() -> None:
    silent = [
        f"[{name}] {key}"
        for name, section in sections().items()
        for key, field in section.model_fields.items()
        if not field.description and f"{name}.{key}" not in sections()
    ]
    assert len(sections()) >= 9 and silent == []
