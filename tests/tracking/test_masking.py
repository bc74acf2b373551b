"""Secrets by name, by shape and by value of the environment; and what is none."""

import time

import pytest

from litmus.tracking.masking import MASK, is_secret_name, mask_command, mask_lines, mask_secrets

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "ghp_" + "a1B2" * 9,
    "GitHub fine-grained": "github_pat_" + "A1b2" * 8,
    "GitLab token": "glpat-" + "x1Y2" * 5,
    "Hugging Face token": "hf_" + "Q1w2" * 8,
    "OpenAI key": "sk-proj-" + "Z9y8" * 8,
    "Slack token": "xoxb-" + "1234567890-abcdef",
    "Google key": "AIza" + "S" * 35,
    "Databricks token": "dapi" + "0a" * 16,
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N",
    "private key": PEM,
    "PGP key": PEM.replace("PRIVATE KEY", "PRIVATE KEY BLOCK").replace("RSA", "PGP"),
    "age key": "AGE-SECRET-KEY-1" + "QPZRY9X8GF" * 6,
    "Docker token": "dckr_pat_" + "a1B2" * 7,
    "Atlassian token": "ATATT3xFfGF0" + "a1B2" * 20,
    "Shopify token": "shpat_" + "0a1b2c3d" * 4,
    "Groq key": "gsk_" + "a1B2" * 13,
    "Replicate token": "r8_" + "a1B2" * 9,
    "Vault token": "hvb." + "a1B2" * 10,
    "Sentry token": "sntrys_eyJ" + "a1B2" * 10,
    "Twilio key": "SK" + "0a1b2c3d" * 4,
    "Telegram token": "123456789:AA" + "a1B2" * 8 + "x",
    "Terraform token": "a1B2" * 3 + "a1.atlasv1." + "a1B2" * 16,
    "Neptune token": "eyJ" + "a1B2" * 15,
    "Google refresh token": "1//0" + "a1B2" * 10,
    "netrc": "correct-horse",
    "Kaggle key": "0a1b2c3d" * 4,
    "curl user": "correct-horse-2",
    "password with @": "pa@ss-in-url",
    "Token header": "a1B2c3D4e5",
    "URL password": "hunter2-in-url",
    "Bearer header": "abcDEF123456789",
    "signed URL": "0f1e2d3c4b5a6978",
}
AROUND = {
    "URL password": "postgresql://me:{}@db.example.org/mlflow",
    "Bearer header": "Authorization: Bearer {}",
    "netrc": "machine h.example.org login me password {}",
    "Kaggle key": '{{"username":"me","key":"{}"}}',
    "curl user": "curl -s -u me:{} https://h.example.org",
    "password with @": "http://me:{}@h.example.org/",
    "Token header": "curl -H 'Authorization: token {}' https://h.example.org",
    "signed URL": "https://bucket.example.org/x.tar?X-Amz-Signature={}&v=1",
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("name", ["note.txt", "config.yaml", "git.diff", "train.py"])
def test_a_secret_is_known_by_its_shape_wherever_it_stands(kind, name):
    text = f"before\n{AROUND.get(kind, 'x = {}').format(SECRETS[kind])}\nafter\n"
    masked = mask_secrets(text, name=name)
    assert SECRETS[kind] not in masked
    assert masked.startswith("before\n")
    assert masked.endswith("after\n")
    assert MASK in masked


@pytest.mark.parametrize(
    "key",
    ["password", "db.password", "hub.token", "HF_TOKEN", "wandb_api_key", "awsSecretAccessKey", "secrets", "auth_token",
     "client_secret", "AZURE_STORAGE_KEY", "SSH_PRIVATE_KEY", "github_pat", "slack.webhook", "sentry_dsn"],
)  # fmt: skip
def test_a_secret_is_known_by_its_name(key):
    assert is_secret_name(key)
    assert mask_secrets({key: "x"}) == {key: MASK}
    assert mask_secrets(f"{key}: x y z  # note\n", name="config.yaml") == f"{key}: {MASK}  # note\n"
    assert mask_secrets(f'{{"{key}": "x y z", "lr": 1}}', name="a.json") == f'{{"{key}": "{MASK}", "lr": 1}}'


@pytest.mark.parametrize(
    "key",
    ["model.class_token", "num_tokens", "token_dim", "model.global_pool", "train.monitor", "key", "keep_prob", "author",
     "patience", "model.reg_tokens", "data.path", "secretary", "keyboard", "compass", "sasha", "dist_token"],
)  # fmt: skip
def test_a_network_has_tokens_and_keys_that_are_no_secrets(key):
    assert not is_secret_name(key)
    assert mask_secrets({key: "x"}) == {key: "x"}
    assert mask_secrets(f"{key}: value\n", name="config.yaml") == f"{key}: value\n"


def test_digests_commits_and_paths_stay_readable():
    text = "commit 269d1f6a8c0de5d0a4c9a6a1d1d8d2e4b3c2a1f0\nsha256:" + "ab" * 32 + "\npath: /data/sk/gh/hf_small\n"
    assert mask_secrets(text, name="note.txt") == text


def test_masking_goes_through_nested_values_and_leaves_types_alone():
    config = {"optim": {"lr": 0.1}, "hub": {"token": "a", "on": True}, "secrets": {"x": [1, {"y": "b"}]}, "token": None}
    assert mask_secrets(config) == {
        "optim": {"lr": 0.1},
        "hub": {"token": MASK, "on": True},
        "secrets": {"x": [MASK, {"y": MASK}]},
        "token": None,
    }
    assert mask_secrets(["ok", SECRETS["AWS key"]]) == ["ok", MASK]


def test_yaml_values_are_masked_to_the_end_of_the_line_and_below():
    text = """\
hub:
  token: correct horse, battery & staple
  lr: 0.1
  secrets:
    a: one
    b: two
  passwords:
  - first one
  - second
  private_key: |
    line one
    line two
  depth: 20
"""
    assert (
        mask_secrets(text, name="config.yaml")
        == f"""\
hub:
  token: {MASK}
  lr: 0.1
  secrets:
    a: {MASK}
    b: {MASK}
  passwords:
  - {MASK}
  - {MASK}
  private_key: |
    {MASK}
    {MASK}
  depth: 20
"""
    )


def test_a_diff_is_masked_file_by_file_so_that_code_still_applies():
    diff = """\
diff --git a/x.py b/x.py
--- a/x.py
+++ b/x.py
+token: str = read()
+password = config.password
+api_key = "abc"
diff --git a/c.yaml b/c.yaml
--- a/c.yaml
+++ b/c.yaml
-token: old one
+token: abc def
   lr: 1
"""
    assert mask_secrets(diff, name="git.diff") == (
        diff.replace('"abc"', f'"{MASK}"').replace("old one", MASK).replace("abc def", MASK)
    )


def test_a_command_line_keeps_everything_but_the_secret_words():
    words = [
        "litmus",
        "fit",
        "a.yaml",
        "hub.token=a b",
        "--password",
        "x y",
        "--token=3",
        "optim.lr=0.1",
        "--steps",
        "5",
    ]
    assert mask_command(words) == [
        *("litmus", "fit", "a.yaml", f"hub.token={MASK}", "--password", MASK, f"--token={MASK}"),
        *("optim.lr=0.1", "--steps", "5"),
    ]


def test_values_of_secret_environment_variables_are_masked_anywhere(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "tr0ub4dor&3x")
    monkeypatch.setenv("HF_TOKEN", "mlflow")  # an ordinary word: masking it would destroy every text
    assert mask_secrets("it said tr0ub4dor&3x to mlflow") == f"it said {MASK} to mlflow"


def test_a_long_text_is_masked_in_pieces_and_a_key_across_two_of_them_whole(monkeypatch):
    from litmus.tracking import masking

    monkeypatch.setattr(masking, "_PIECE_CHARS", 100)
    secret = "tail-of-the-key"
    lines = ["x" * 60 + "\n", "-----BEGIN PRIVATE KEY-----\n", "y" * 60 + "\n", secret + "\n"]
    lines += ["-----END PRIVATE KEY-----\n", "password: abc\n", "z\n"]
    masked = "".join(mask_lines(lines, name="a.log"))
    assert masked == f"{lines[0]}{MASK}\npassword: {MASK}\nz\n"


def test_ordinary_text_is_masked_at_megabytes_a_second():
    text = "".join(f"{k},{k / 7},class_{k % 10},path/to/image_{k}.png\n" for k in range(40_000))
    began = time.perf_counter()
    assert mask_secrets(text, name="a.csv") == text
    assert time.perf_counter() - began < 2  # measured: 0.25 s for 2.2 MB, 2.5 s before there were signs to look for


def test_masking_twice_is_masking_once():
    text = f"password: {SECRETS['AWS key']}\nurl: postgresql://u:p@h/d\n--token abc\n"
    once = mask_secrets(text, name="a.txt")
    assert mask_secrets(once, name="a.txt") == once


@pytest.mark.parametrize("piece", ["x", "a.b-", "--a-", "k='", "http://", "- ", "eyJ", "A" * 40 + "=", "token: "])
def test_no_text_takes_long_to_mask(piece):
    text = piece * (60_000 // len(piece))
    began = time.perf_counter()
    for name in ("a.txt", "a.yaml", "a.py", "a.diff"):
        mask_secrets(text, name=name)
    assert time.perf_counter() - began < 5  # measured: 0.1 to 0.6 s; a pattern that backtracks takes a minute


def test_a_value_masked_before_stays_quoted_and_nothing_else_passes_for_one():
    quoted = "api_key: '[masked]'\n"  # without its quotes YAML reads a list
    assert mask_secrets(quoted, name="config.yaml") == quoted
    assert "s3cretw0rd" not in mask_secrets("api_key: '[masked]' s3cretw0rd\n", name="config.yaml")
