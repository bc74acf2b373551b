import pytest

from litmus.config.vary import Arm, arm_configs, arms_of, split_values
from litmus.errors import Refused


def test_over_makes_every_combination_the_last_key_fastest():
    arms = arms_of(["model.name=plain,residual", "model.norm=none,batch"])
    assert [arm.label for arm in arms] == [
        *("model=plain, norm=none", "model=plain, norm=batch"),
        *("model=residual, norm=none", "model=residual, norm=batch"),
    ]
    assert arms[1].overrides == ("model.name=plain", "model.norm=batch")


def test_an_arm_holds_overrides_that_belong_together_and_an_empty_one_is_the_config_itself():
    assert arms_of(arms=["", "model.name=residual model.depth=56"]) == [
        Arm("as it is"),
        Arm("model=residual depth=56", ("model.name=residual", "model.depth=56")),
    ]
    assert [arm.overrides for arm in arms_of(["seed=1,2"], ["optim.lr=1", "optim.lr=2"])] == [
        *(("seed=1", "optim.lr=1"), ("seed=1", "optim.lr=2")),
        *(("seed=2", "optim.lr=1"), ("seed=2", "optim.lr=2")),
    ]


def test_nothing_to_vary_is_one_arm():
    assert arms_of() == [Arm("")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2", ["1", "2"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("'a,b', c", ["'a,b'", "c"]),
        ("{a: [1,2], b: 3},x", ["{a: [1,2], b: 3}", "x"]),
        ("", [""]),
    ],
)
def test_commas_inside_brackets_and_quotes_part_nothing(text, parts):
    assert split_values(text) == parts


@pytest.mark.parametrize(
    ("over", "arms", "says"),
    [
        (["model.init"], [], "--over = 'model.init': reads a.b=value,value,..."),
        (["model..init=a,b"], [], "reads a.b=value"),
        (["model.init=a,,b"], [], "has an empty value of model.init"),
        (["model.init=a,b,a"], [], "names a more than once"),
        (["seed=1,2", "seed=3,4"], [], "gives seed twice"),
        (["seed=1,2"], ["seed=3"], "seed has values of --over too"),
        ([], ["optim.lr"], "'optim.lr' is no override"),
        ([], ["optim.lr=1 optim.lr=2"], "gives optim.lr twice"),
        ([], ["optim.lr='1"], "cannot be read"),
        ([], ["seed=1", "seed=1"], "stands twice"),
        ([f"seed={','.join(map(str, range(17)))}", f"optim.lr={','.join(map(str, range(1, 17)))}"], [], "272 arms"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_value(over, arms, says):
    with pytest.raises(Refused, match="command is refused") as caught:
        arms_of(over, arms)
    assert says in str(caught.value)


def test_the_configs_of_all_arms_are_checked_at_once():
    configs = arm_configs(["configs/digits_mlp.yaml"], ["seed=3"], arms_of(["model.width=8,16"]))
    assert [(config.model.width, config.seed) for config in configs] == [(8, 3), (16, 3)]
    (own,) = arm_configs(["configs/digits_mlp.yaml"], ["seed=3", "model.width=4"], arms_of(arms=["seed=5"]))
    assert (own.model.width, own.seed) == (4, 5)  # an arm's own word is the last
    with pytest.raises(Refused) as caught:
        arm_configs(["configs/digits_mlp.yaml"], [], arms_of(["optim.lr=0,-1", "model.init=hee,he_normal"]))
    assert sorted((problem.where, problem.value) for problem in caught.value.problems) == [
        *(("model.init", "hee"), ("optim.lr", -1), ("optim.lr", 0)),
    ]
