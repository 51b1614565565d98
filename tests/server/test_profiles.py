"""`[profile.NAME]`: text of the owner's own becomes a profile, which a launch keeps."""

from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.compute.local.backend import open_local
from autoresearch_mcp.server.compute.slurm.backend import open_backend as open_slurm
from autoresearch_mcp.server.compute.slurm.script import options
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.trainer.prepare import META, read_json

OWN = '[training]\nprofile = "mine"\n[profile.mine]\ntext = "{folder}"\nvocab_size = 300\nseq_len = 32\neval_bytes = 10000\n'


def load(root: Path, text: str) -> settings.Settings:
    (root / "lab.toml").write_text('[lab]\nname = "x"\n' + text, encoding="utf-8")
    return settings.load(root)


def test_a_profile_has_the_limits_of_its_device_and_a_budget_of_its_own(tmp_path: Path) -> None:
    loaded = load(tmp_path, OWN.format(folder="/srv/text"))
    limits = loaded.training.limits
    assert (limits.name, limits.vocab_size, limits.seq_len, limits.clock, limits.base) == ("mine", 300, 32, "cpu", "cpu")
    assert loaded.training.budget_s == 60 and loaded.device == "cpu" and loaded.trust == "verified" and loaded.longest_s() > 180
    gpu = load(tmp_path, OWN.format(folder="/srv/text") + 'device = "cuda"\n')
    assert gpu.training.budget_s == 300 and gpu.device == "cuda" and gpu.training.limits.sealed
    small = load(tmp_path, OWN.format(folder="/srv/text") + 'device = "gpu"\n').training.limits
    assert (small.base, small.device, small.score_s, small.memory_mb) == (
        "gpu",
        "cuda",
        180,
        24_576,
    ) and small.score_s > gpu.training.limits.score_s
    assert load(tmp_path, OWN.format(folder="/srv/text") + "budget_s = 7\n").training.budget_s == 7
    large = load(tmp_path, OWN.format(folder="/srv/text").replace("vocab_size = 300", "vocab_size = 65536")).training.limits
    assert large.eval_rows == 2 and large.score_s > 90


def test_a_launch_keeps_the_profile_it_was_made_under(tmp_path: Path) -> None:
    launch = load(tmp_path, OWN.format(folder="/srv/text")).launch()
    assert settings.LaunchSettings.model_validate_json(launch.model_dump_json()) == launch
    now = load(tmp_path, OWN.format(folder="/srv/other"))
    assert now.changed_since(launch) == ["[training] own_profile"] and now.under(launch).training.limits.own == launch.training.limits.own
    assert "own_profile" not in load(tmp_path, "").launch().model_dump_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            OWN.replace('"mine"', '"yours"', 1),
            "[training] profile must be one of cpu, tiny, h100, gpu, mps, or the NAME of a [profile.NAME]",
        ),
        (OWN.replace("mine", "cpu"), "[profile.cpu] must have another name"),
        (OWN + "vocab = 5\n", "[profile.mine] vocab is not a known setting. Remove it, or correct it to one of: text, dataset"),
        (OWN + 'dataset = "a/b"\n', "[profile.mine] must name a text or a dataset, and not both"),
        (OWN.replace("{folder}", "here"), "[profile.mine] text must be an absolute path"),
        (OWN.replace("seq_len = 32", "seq_len = 16384"), "[profile.mine] must have an eval_bytes of at least 64 times"),
        (
            OWN.replace("300", "65536").replace("32", "1024").replace("10000", "100000"),
            "[profile.mine] must have a vocab_size times seq_len",
        ),
        (OWN.replace("[profile.mine]", "own_profile = {{}}\n[profile.mine]"), "own_profile is not a setting"),
        (
            '[training]\nprofile = "mps"\n[compute]\nbackend = "slurm"\n',
            "[compute] backend must be local: the profile 'mps' is for this machine's",
        ),
    ],
)
def test_profiles_that_cannot_be_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LabError) as error:
        load(tmp_path, text.format(folder="/srv/text"))
    assert words in str(error.value)


def test_a_labs_backend_prepares_the_owners_text_with_the_labs_own_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("\n\n".join(f"Line {n} says {n * n} of {n % 7}." * 20 for n in range(200)), encoding="utf-8")
    (tmp_path / "lab" / ".autoresearch").mkdir(parents=True)
    loaded = load(tmp_path / "lab", OWN.format(folder=tmp_path / "text"))
    state = tmp_path / "lab" / ".autoresearch"
    directory = Path(anyio.run(open_local(loaded, state, tmp_path / "log", warm=False).prepare))
    by_slurm = load(tmp_path / "lab", OWN.format(folder=tmp_path / "text") + "[compute]\nbackend = 'slurm'\n")
    assert Path(anyio.run(open_slurm(by_slurm, state, tmp_path / "log").prepare)) == directory
    meta = read_json(directory / META) or {}
    assert directory.is_relative_to(tmp_path / "cache") and meta["profile"] == "mine" and meta["heldout"] and meta["vocab_size"] == 300


def test_a_job_of_slurm_has_time_for_all_that_its_profile_and_its_scorer_may_take(tmp_path: Path) -> None:
    def minutes(text: str) -> int:
        wanted = load(tmp_path, text)
        spec = spec_of(wanted.launch(), "e-1")
        (limit,) = (each for each in options("n", "c", tmp_path, spec, wanted.compute.slurm) if each.startswith("--time="))
        assert int(limit.removeprefix("--time=")) * 60 >= wanted.longest_s()
        return int(limit.removeprefix("--time="))

    own = OWN.format(folder="/srv/text").replace("eval_bytes", "budget_s = 600.0\neval_bytes") + "[compute]\nbackend = 'slurm'\n"
    assert minutes(own) > 10
    scorer = "[metric]\nname = 'wer'\n[scorer]\nkind = 'command'\nhidden = '/answers'\nfile = '/scoring/s.py'\ntimeout_s = {}\n[compute]\nbackend = 'slurm'\n"
    assert minutes(scorer.format(1800)) - minutes(scorer.format(60)) >= 58
