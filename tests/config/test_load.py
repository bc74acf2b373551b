import json
import subprocess
import sys
from pathlib import Path

import pytest

from litmus.config import RunConfig, dump_config, flatten, json_schema, load_config, notes, parse_config, to_dict
from litmus.errors import Refused

CONFIGS = sorted(Path("configs").glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_files_merge_left_to_right_and_overrides_win(tmp_path):
    first = write(tmp_path / "a.yaml", "seed: 1\nmodel: {name: residual, depth: 32, width: 8}\n")
    second = write(tmp_path / "b.yaml", "model: {depth: 44}\noptim: {lr: 1e-3}\n")
    config = load_config([first, second], ["model.width=4", "train.epochs=3"])
    assert (config.seed, config.model.depth, config.model.width) == (1, 44, 4)
    assert config.optim.lr == 0.001  # plain YAML reads 1e-3 as text
    assert config.train.epochs == 3


def test_changing_the_name_of_a_union_changes_its_member():
    config = load_config([], ["model.name=plain", "optim.name=lion", "optim.lr=1e-4", "early_stopping.name=pq"])
    assert [type(part).__name__ for part in (config.model, config.optim, config.early_stopping)] == [
        "PlainConfig",
        "TimmOptimConfig",
        "PQConfig",
    ]


def test_one_word_changes_the_member_over_keys_that_only_the_old_one_has(tmp_path):
    base = write(
        tmp_path / "a.yaml", "optim: {name: momentum, lr: 0.2, momentum: 0.5}\nmodel: {shortcut: B, depth: 32}\n"
    )
    config = load_config([base], ["optim.name=adam", "model.name=plain"])
    assert (config.optim.name, config.optim.lr, config.model.name, config.model.depth) == ("adam", 0.2, "plain", 32)
    with pytest.raises(Refused, match=r"optim.momentum = 0.5"):
        load_config([base], ["optim.name=adam", "optim.momentum=0.5"])


def test_a_section_without_a_name_means_its_default():
    assert load_config([], ["model.depth=56"]).model.name == "residual"
    assert load_config([], ["early_stopping.alpha=3"]).early_stopping.name == "gl"


@pytest.mark.parametrize("path", [None, *CONFIGS], ids=str)
def test_a_dumped_config_loads_to_itself(path, tmp_path):
    config = load_config([path] if path else [], ["model.width=8"] if path is None else [])
    again = load_config([write(tmp_path / "dump.yaml", dump_config(config))])
    assert again == config
    assert parse_config(json.loads(json.dumps(to_dict(config)))) == config


def test_parameters_have_the_names_of_the_command_line():
    flat = flatten(RunConfig())
    for name in ("seed", "model.keep_prob", "optim.l2_lambda", "data.batch_size", "early_stopping"):
        assert name in flat
    changed = load_config([], [f"{key}={json.dumps(value)}" for key, value in flat.items() if value not in (None, {})])
    assert changed == RunConfig()


def test_a_frozen_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().model.depth = 20


def test_every_mistake_is_named_in_one_refusal():
    with pytest.raises(Refused) as caught:
        load_config([], ["optim.lrr=1", "model.depth=21", "data.name=cifar1", "seed=-1", "train=3"])
    assert {problem.where for problem in caught.value.problems} == {
        "optim.lrr",
        "model.depth",
        "data.name",
        "seed",
        "train",
    }


def test_the_schema_describes_every_key_that_has_a_docstring():
    schema = json_schema()
    depth = schema["$defs"]["ResidualConfig"]["properties"]["depth"]
    assert depth["description"] == "Weighted layers, 6n + 2."
    keep = schema["$defs"]["MLPConfig"]["properties"]["keep_prob"]
    assert "survives dropout" in keep["description"]
    assert (keep["exclusiveMinimum"], keep["maximum"]) == (0, 1)


def test_the_shipped_schema_is_the_current_one():
    assert json.loads(Path("configs/schema.json").read_text()) == json_schema(), (
        "make it anew: litmus schema -o configs/schema.json"
    )


def test_the_schema_of_claims_in_configs_is_the_one_of_the_code():
    from litmus.config.claim import claim_schema

    made = claim_schema()
    assert json.loads(Path("configs/claim-schema.json").read_text()) == made, (
        "make it anew: litmus schema --claim -o configs/claim-schema.json"
    )
    assert made["properties"]["condition"]["description"].startswith("When it is *supported*")


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_shipped_config_starts_with_the_editor_line(path):
    first = path.read_text().splitlines()[0]
    kind = {"studies": "study-schema.json", "claims": "claim-schema.json"}.get(path.parent.name, "schema.json")
    schema = "../" * (len(path.parts) - 2) + kind
    assert first == f"# yaml-language-server: $schema={schema}"


COMMANDS = [
    ["--help"],
    ["fit", "--help"],
    ["fit", "model.depht=20"],
    ["schema"],
    ["schema", "--study"],
    ["schema", "--claim"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_help_and_refusals_import_nothing_heavy(argv):
    script = (
        "import sys\nfrom litmus.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'optuna', 'numpy', 'matplotlib', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("debug", sorted(Path("configs/debug").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("base", CONFIGS, ids=lambda path: path.stem)
def test_debug_overrides_fit_over_every_config(base, debug):
    assert load_config([base, debug]).model == load_config([base]).model


def test_the_config_names_every_torchvision_set_there_is_a_row_for():
    from litmus.config import TORCHVISION_SETS
    from litmus.data.sources.torchvision_sets import TABLE

    assert list(TORCHVISION_SETS) == sorted(TABLE)


def test_label_noise_is_noted_with_the_training_error_that_it_leaves():
    (note,) = notes(load_config([], ["data.label_noise=0.2"]))
    assert "of which about 0.2 are wrong" in note
    assert notes(load_config([], [])) == []
