"""The *Config* rows of wrong input: each is refused from the config alone, naming key, value and what is allowed."""

import os

import pytest

from litmus.config import load_config
from litmus.errors import Refused

ROWS = [
    # overrides, key, words of the message
    ("optim.lrr=0.1", "optim.lrr", "did you mean optim.lr?"),
    ("lr=0.1", "lr", "did you mean optim.lr?"),
    ("modle.depth=20", "modle", "did you mean model?"),
    ("model.name=plain model.shortcut=B", "model.shortcut", "model 'plain' has none (residual do)"),
    ("optim.lr='1e-3'", "optim.lr", "wants a number, found text"),
    ("seed=1.7", "seed", "wants a whole number"),
    ("seed=true", "seed", "wants a whole number, found true/false"),
    ("seed=-1", "seed", ">= 0 and <= 4294967295"),
    ("seed=4294967296", "seed", ">= 0 and <= 4294967295"),
    ("train=3", "train", "wants a section"),
    ("model=residual", "model", "{name: residual}"),
    ("optim.lr=0", "optim.lr", "> 0 and <= 1000"),
    ("optim.lr=-1", "optim.lr", "> 0"),
    ("optim.lr=.nan", "optim.lr", "finite"),
    ("optim.lr=.inf", "optim.lr", "finite"),
    ("optim.l2_lambda=-1", "optim.l2_lambda", ">= 0"),
    ("optim.l1_lambda=-1", "optim.l1_lambda", ">= 0"),
    ("optim.momentum=1.5", "optim.momentum", ">= 0 and < 1"),
    ("optim.name=adam optim.betas=[0.9,1.0]", "optim.betas.1", "< 1"),
    ("optim.name=adam optim.betas=[0.9]", "optim.betas.1", "is needed"),
    ("optim.name=adma", "optim.name", "did you mean 'adam'?"),
    ("schedule.name=cosin", "schedule.name", "did you mean 'cosine'?"),
    ("model.keep_prob=0", "model.keep_prob", "> 0 and <= 1"),
    ("model.keep_prob=1.5", "model.keep_prob", "> 0 and <= 1"),
    ("model.head_keep_prob=0", "model.head_keep_prob", "> 0 and <= 1"),
    ("model.name=mlp model.input_keep_prob=0", "model.input_keep_prob", "> 0 and <= 1"),
    ("model.name=timm model.drop_path_keep_prob=0", "model.drop_path_keep_prob", "> 0 and <= 1"),
    ("train.label_smoothing=1.5", "train.label_smoothing", ">= 0 and < 1"),
    ("augment.mixup=-1", "augment.mixup", ">= 0"),
    ("augment.cutmix=-1", "augment.cutmix", ">= 0"),
    ("augment.erase=2", "augment.erase", ">= 0 and <= 1"),
    ("augment.rotate=400", "augment.rotate", ">= 0 and <= 180"),
    ("augment.scale=[1.2,0.8]", "augment.scale", "low > high: 1.2 > 0.8"),
    ("augment.policy=trival", "augment.policy", "did you mean 'trivial'?"),
    ("data.batch_size=0", "data.batch_size", ">= 1"),
    ("data.batch_size=-1", "data.batch_size", ">= 1"),
    ("data.batch_size=2.5", "data.batch_size", "wants a whole number"),
    ("data.name=image_folder data.path=x data.workers=-1", "data.workers", ">= 0 and <= 64"),
    ("data.name=image_folder", "data.path", "is needed"),
    ("data.name=cifar1", "data.name", "did you mean 'cifar10'?"),
    ("data.val_fraction=0.9", "data.val_fraction", "no image is left"),
    ("data.val_fraction=0", "data.val_fraction", "must be > 0"),
    ("data.std=[0]", "data.std", "must be > 0"),
    ("train.epochs=0", "train.epochs", ">= 1; to evaluate a trained run use `litmus test`"),
    ("train.steps=0", "train.steps", ">= 1; to evaluate a trained run use `litmus test`"),
    ("train.grad_clip=-1", "train.grad_clip", "> 0"),
    ("train.accumulate=0", "train.accumulate", ">= 1"),
    ("model.depth=21", "model.depth", "6n + 2 (8, 14, 20, 32, 44, 56, 110, ...); the nearest is 20"),
    ("model.depth=2", "model.depth", "the nearest is 8"),
    ("model.name=residual_mlp model.depth=7", "model.depth", "multiple of 2"),
    ("model.name=mlp model.depth=3 model.width=[8]", "model", "2 hidden widths, found 1"),
    ("model.width=0", "model.width", ">= 1"),
    ("model.norm=bach", "model.norm", "did you mean 'batch'?"),
    ("model.init=he", "model.init", "he_uniform"),
    ("model.init=hee_normal", "model.init", "did you mean 'he_normal'?"),
    ("model.activation=rellu", "model.activation", "did you mean 'relu'?"),
    ("model.name=resnet", "model.name", "did you mean 'residual'?"),
    ("model.norm=group model.norm_groups=7", "model.norm_groups", "must divide model.width = 16"),
    ("model.norm=none model.zero_gamma=true", "model.zero_gamma", "needs a norm"),
    ("model.init=fixup", "model.init", "it needs model.norm = none, found 'batch'"),
    ("model.init=zero_branch model.norm=group", "model.init", "it needs model.norm = none, found 'group'"),
    ("model.init=fixup model.norm=none model.preactivation=true", "model.init", "needs model.preactivation = false"),
    ("model.init=fixup model.norm=none model.name=plain", "model.init", "must be one of"),
    ("model.init=fixupp model.norm=none", "model.init", "did you mean 'fixup'?"),
    ("train.precision=16", "train.precision", "32, 64, bf16-mixed, 16-mixed"),
    ("train.precision=16-mixed train.accelerator=cpu", "train.precision", "needs a GPU"),
    ("train.devices=0", "train.devices", ">= 1 and <= 1024"),
    ("train.devices=two", "train.devices", "wants a whole number, found text"),
    ("train.strategy=dpp train.devices=2", "train.strategy", "did you mean 'ddp'?"),
    ("train.strategy=ddp", "train.strategy", "only acts with train.devices > 1"),
    ("train.sync_bn=true", "train.sync_bn", "only acts with train.devices > 1"),
    ("train.lr_scaling=linear", "train.lr_scaling", "only acts with train.devices > 1"),
    ("data.batch_per=device", "data.batch_per", "only acts with train.devices > 1"),
    ("train.timeout_sec=60", "train.timeout_sec", "only acts with train.devices > 1"),
    ("train.devices=4 train.lr_scaling=linear", "train.lr_scaling", "the batch is 128 on any number of devices"),
    ("train.devices=4 data.batch_size=3", "data.batch_size", "must be at least train.devices x train.nodes = 4"),
    ("train.devices=2 train.accelerator=mps", "train.devices", "an Apple GPU is one device"),
    ("train.devices=2 train.sync_bn=true model.norm=none", "train.sync_bn", "model.norm is 'none'"),
    ("train.devices=2 train.sync_bn=true train.accelerator=cpu", "train.sync_bn", "needs GPUs"),
    ("train.devices=2 train.profiler=simple", "train.profiler", "profile with train.devices = 1"),
    ("train.devices=2 train.strategy=fsdp train.accelerator=cpu", "train.accelerator", "fsdp"),
    ("train.devices=2 train.strategy=fsdp freeze.layers=body", "freeze", "use ddp"),
    ("train.devices=2 train.strategy=fsdp train.ema_decay=0.9", "train.ema_decay", "use ddp"),
    ("train.devices=2 train.strategy=fsdp train.grad_clip=1", "train.grad_clip", "use ddp"),
    ("train.devices=2 train.strategy=fsdp train.compile=true", "train.compile", "use ddp"),
    ("train.accelerator=gup", "train.accelerator", "did you mean 'gpu'?"),
    ("schedule.name=step schedule.every=0", "schedule.every", ">= 1"),
    ("schedule.warmup=10 train.epochs=10", "schedule.warmup", "shorter than the training, 10 epochs"),
    ("schedule.name=multistep schedule.milestones=[5,30] train.epochs=20", "schedule.milestones", "20 epochs"),
    ("schedule.name=multistep schedule.milestones=[9,5]", "schedule.milestones", "must rise"),
    ("schedule.name=multistep", "schedule.milestones", "is needed"),
    ("train.epochs=5 train.steps=100", "train.steps", "train.epochs = 5: keep one"),
    ("train.val_every=20", "train.val_every", "must divide train.epochs = 10"),
    ("train.val_every=3 train.epochs=10", "train.val_every", "must divide train.epochs = 10"),
    ("train.val_every=20 train.steps=10", "train.val_every", "no validation would ever run in 10 steps"),
    ("model.zero_gamma=true model.preactivation=true", "model.zero_gamma", "end in a norm"),
    ("model.name=mlp model.depth=1 model.keep_prob=0.5", "model.keep_prob", "no hidden layer"),
    (
        "early_stopping.name=patience early_stopping.monitor=val/los",
        "early_stopping.monitor",
        "did you mean 'val/loss'?",
    ),
    ("checkpoint.monitor=val_loss", "checkpoint.monitor", "did you mean 'val/loss'?"),
    ("schedule.name=plateau schedule.monitor=acc", "schedule.monitor", "one of: train/err"),
    ("early_stopping.name=patience early_stopping.mode=max", "early_stopping.mode", "is not a key"),
    ("early_stopping.name=patience early_stopping.patience=-1", "early_stopping.patience", ">= 1"),
    ("early_stopping.alpha=-1", "early_stopping.alpha", ">= 0"),
    ("early_stopping.name=gll", "early_stopping.name", "did you mean 'gl'?"),
    ("data.part=1", "data.part", "only acts with data.parts"),
    ("data.draw_seed=1", "data.draw_seed", "only acts with data.num_train or data.parts"),
    ("data.label_noise=1", "data.label_noise", "< 1"),
    ("data.label_noise=-0.1", "data.label_noise", ">= 0"),
    ("data.label_nois=0.1", "data.label_nois", "did you mean data.label_noise?"),
    ("model.init_std=0.1", "model.init_std", "only acts with model.init = normal"),
    ("augment.erase_area=[0.1,0.2]", "augment.erase_area", "only acts with augment.erase > 0"),
    ("freeze.layers=[]", "freeze.layers", "wants `body`"),
    ("freeze.layers=-1", "freeze.layers", "wants `body`"),
    ("freeze.layers=1.5", "freeze.layers", "the stem and the first k blocks"),
    ("freeze.layer=body", "freeze.layer", "did you mean freeze.layers?"),
    ("freeze.until=0", "freeze.until", ">= 1"),
    ("freeze.until=10 train.epochs=10", "freeze.until", "the training ends after 10 epochs"),
    ("freeze.until=200 train.steps=100", "freeze.until", "the training ends after 100 steps"),
    ("freeze.thaw_every=2", "freeze.thaw_every", "needs freeze.until"),
    ("freeze.lr_after=0.1", "freeze.lr_after", "needs freeze.until"),
    ("freeze.until=2 freeze.lr_after=0", "freeze.lr_after", "> 0"),
    ("freeze.until=2 freeze.lr_after=0.1 schedule.warmup=3", "schedule.warmup", "shorter than each phase"),
    (
        "freeze.until=5 freeze.lr_after=0.1 schedule.name=multistep schedule.milestones=[6]",
        "schedule.milestones",
        "beyond both phases",
    ),
    ("optim.layer_decay=0", "optim.layer_decay", "> 0 and <= 1"),
    ("optim.layer_decay=2", "optim.layer_decay", "> 0 and <= 1"),
    ("optim.lr_factors.stem=0", "optim.lr_factors.stem", "> 0"),
    ("model.weights=pretrained", "model.weights", "is for timm's backbones"),
    ("model.weights=w.pth model.init=lsuv", "model.init", "would rescale"),
    ("model.weights_by=order", "model.weights_by", "only acts with model.weights"),
    ("model.weights=w.pth model.weights_by=odrer", "model.weights_by", "did you mean 'order'?"),
    ("data.classes=[3]", "data.classes", "at least 2"),
    ("tracking.uri=./mlruns", "tracking.uri", "sqlite"),
    ("tracking.uri=ftp://host", "tracking.uri", "http"),
    ("name=a/../b", "name", "letters, digits"),
    ("tracking.tags={'a;b': x}", "tracking.tags", "letters, digits"),
    ("tracking.experiment=''", "tracking.experiment", "at least 1"),
]


@pytest.mark.parametrize(("overrides", "key", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_wrong_config_is_refused_with_key_and_range(overrides, key, words):
    with pytest.raises(Refused) as caught:
        load_config([], overrides.split(" ") if "{" not in overrides else [overrides])
    [problem] = caught.value.problems
    assert problem.where == key
    assert words in problem.says


def _file(tmp_path, kind):
    path = tmp_path / "config.yaml"
    match kind:
        case "folder":
            path.mkdir()
        case "empty":
            path.write_text("# nothing\n")
        case "binary":
            path.write_bytes(bytes(range(256)))
        case "not yaml":
            path.write_text("seed: [1\noptim: }\n")
        case "large":
            path.write_text("# " + "x" * 1_100_000 + "\nseed: 1\n")
        case "list":
            path.write_text("- seed\n")
        case "twice":
            path.write_text("seed: 1\nmodel:\n  depth: 20\n  width: 8\n  depth: 56\n")
        case "deep":
            path.write_text("a: " * 1 + "[" * 5000)
        case "interpolation":
            path.write_text("seed: ${nothing.here}\n")
        case "aliases":
            lists = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 6)]
            path.write_text("a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(lists))
        case "itself":
            path.write_text("a: &a [*a]\n")
        case "code":
            path.write_text("name: !!python/object/apply:os.mkdir [ran]\n")
        case "pipe":
            os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("binary", "is not"),
        ("not yaml", "is not YAML"),
        ("large", "is 1 MB; a config has at most 1 MB"),
        ("list", "must be a mapping"),
        ("twice", "stands twice, on lines 3 and 5"),
        ("deep", "is n"),
        ("interpolation", "nothing.here"),
        ("aliases", "would unfold to more than 100,000 values"),
        ("itself", "would unfold to more than 100,000 values: a bomb"),
        ("code", "could not determine a constructor"),
        ("pipe", "is a pipe or a device"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_path(tmp_path, kind, words):
    path = _file(tmp_path, kind)
    with pytest.raises(Refused) as caught:
        load_config([path])
    [problem] = caught.value.problems
    assert words in problem.says
    assert str(path) in problem.where or kind == "interpolation"


def test_a_missing_file_and_a_wrong_override_are_both_named(tmp_path):
    with pytest.raises(Refused) as caught:
        load_config([tmp_path / "a.yaml"], ["model.depth", "=3"])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("form", ["${{tracking.tags.a{}}}", "${{.a{}}}", "${{..tags.a{}}}"])
def test_references_that_grow_without_end_are_refused_before_they_grow(form, tmp_path):
    """Forty lines, each twice the one before: ten terabytes of text."""
    lines = ["a0: xxxxxxxxxx", *(f"a{i}: {form.format(i - 1) * 2}" for i in range(1, 41))]
    (tmp_path / "bomb.yaml").write_text("tracking:\n  tags:\n" + "".join(f"    {line}\n" for line in lines))
    with pytest.raises(Refused, match=r"tracking\.tags\.a1\d: grows to 1,\d{3},\d{3} characters"):
        load_config([tmp_path / "bomb.yaml"])


def test_sections_that_grow_without_end_are_refused_too(tmp_path):
    lines = ["x0: {a: 1}", *(f"x{i}: {{a: '${{x{i - 1}}}', b: '${{x{i - 1}}}'}}" for i in range(1, 41))]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(Refused, match=r"x\d\d\.a: grows to"):
        load_config([tmp_path / "bomb.yaml"])


def test_references_that_do_not_are_followed():
    config = load_config([], ["seed=3", "tracking.tags.a=x${seed}", "tracking.tags.b=${.a}${tracking.tags.a}"])
    assert config.tracking.tags == {"a": "x3", "b": "x3x3"}
