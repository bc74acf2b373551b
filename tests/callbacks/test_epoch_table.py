from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
import torch

from litmus.callbacks import EpochTable, LastCheckpoint, progress, skip_unused_hooks
from litmus.callbacks.progress import bar_line, duration, num_images, table_line


class Terminal(io.StringIO):
    """A terminal's screen: what ``\\r``, ``\\n`` and erase-to-end-of-line leave to be seen."""

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self):
        super().__init__()
        self.bars: list[str] = []

    def isatty(self):
        return True

    def write(self, text):
        if text.startswith("\r") and text.endswith("\x1b[K\r"):
            self.bars.append(text[1:-4])
        return super().write(text)

    @property
    def screen(self):
        lines, column = [""], 0
        for token in re.findall(r"\x1b\[K|\x1b.|.|\n|\r", self.getvalue()):
            if token == "\n":
                lines.append("")
                column = 0
            elif token == "\r":
                column = 0
            elif token == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                assert not token.startswith("\x1b"), f"a control sequence that the bar does not use: {token!r}"
                lines[-1] = lines[-1][:column].ljust(column) + token + lines[-1][column + 1 :]
                column += 1
        return lines


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def timed(learner, clock):
    """A module whose training batch takes 0.5 s and whose validation batch takes 2 s, with scripted metrics."""

    class Timed(learner):
        script = ({"train/loss": 1.5, "train/err": 0.5, "val/loss": 1.0, "val/err": 0.25},)
        batch_sec, test_sec = 0.5, 1.0

        def training_step(self, batch, batch_idx):
            clock.now += self.batch_sec
            return super().training_step(batch, batch_idx) * 0 + 2.5

        def validation_step(self, batch, batch_idx):
            clock.now += 2.0

        def test_step(self, batch, batch_idx):
            clock.now += self.test_sec

        def predict_step(self, batch, batch_idx):
            clock.now += 1.0
            return batch[0]

        def on_validation_epoch_end(self):
            self.log_dict(self.script[self.current_epoch % len(self.script)])

    return Timed()


def lines_of(stream):
    return stream.getvalue().splitlines()


def test_piped_output_is_a_plain_line_for_each_validation(timed, data, make_trainer):
    timed.script = tuple({"train/loss": 2.0, "val/loss": loss, "val/err": 0.125} for loss in (0.5, 0.75, 0.25, 0.25))
    table, bar = io.StringIO(), io.StringIO()
    make_trainer(EpochTable(table=table, bar=bar), max_epochs=4).fit(timed, data(12), data(4))
    assert lines_of(table) == [
        "epoch  train/loss  train/err  val/loss  val/err        lr    time   images/s",
        "  1/4      2.0000          -    0.5000   0.1250       0.1    3.5s          8  best",
        "  2/4      2.0000          -    0.7500   0.1250       0.1    3.5s          8",
        "  3/4      2.0000          -    0.2500   0.1250       0.1    3.5s          8  best",
        "  4/4      2.0000          -    0.2500   0.1250       0.1    3.5s          8",
    ]
    assert bar.getvalue() == ""
    assert max(map(len, lines_of(table))) <= 82


def test_terminal_shows_the_table_and_no_trace_of_the_bar(timed, data, make_trainer):
    terminal, table = Terminal(), io.StringIO()
    make_trainer(EpochTable(table=terminal, bar=terminal), max_epochs=2, num_sanity_val_steps=1).fit(
        timed, data(12), data(12)
    )
    make_trainer(EpochTable(table=table, bar=io.StringIO()), max_epochs=2).fit(timed, data(12), data(12))
    assert terminal.screen == [*lines_of(table), ""]
    assert [bar.split()[0] for bar in terminal.bars[:6]] == ["epoch"] * 3 + ["validating"] * 3
    assert not any(bar.startswith("validating") for bar in terminal.bars[:3])  # nor at the sanity check


def test_bar_says_where_the_training_is(timed, data, make_trainer, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    trainer = make_trainer(EpochTable(table=io.StringIO(), bar=terminal), max_epochs=2)
    trainer.fit(timed, data(12), data(4))
    first, fifth = terminal.bars[0], terminal.bars[5]
    assert first == f"epoch 1/2 {'━' * 10}{'─' * 20} 1/3  loss 2.5000  8 images/s  2.5s left"
    assert terminal.bars[3] == f"validating {'━' * 30} 1/1"
    # 2 of 3 batches of the second epoch; 5 steps took 4.5 s and the one validation between them
    assert fifth == f"epoch 2/2 {'━' * 20}{'─' * 10} 2/3  loss 2.5000  8 images/s  0.9s left"


def test_bar_shows_the_loss_of_a_batch_and_not_its_part_of_an_accumulated_step(timed, data, make_trainer):
    terminal = Terminal()
    trainer = make_trainer(EpochTable(table=io.StringIO(), bar=terminal), max_epochs=1, accumulate_grad_batches=3)
    trainer.fit(timed, data(12), data(4))
    assert all("loss 2.5000" in bar for bar in terminal.bars[:3])


def test_bar_is_drawn_four_times_a_second_however_fast_the_steps(timed, data, make_trainer):
    timed.batch_sec = timed.test_sec = 0.01
    terminal = Terminal()
    trainer = make_trainer(EpochTable(table=io.StringIO(), bar=terminal), max_epochs=1)
    trainer.fit(timed, data(200, 2), data(4))
    trainer.test(timed, data(200, 2), verbose=False)
    for what in ("epoch", "testing"):
        drawn = [bar for bar in terminal.bars if bar.startswith(what)]
        assert 4 <= len(drawn) <= 5  # 100 batches in 1 s


def test_length_in_steps_is_counted_in_steps(timed, data, make_trainer):
    table, terminal = io.StringIO(), Terminal()
    options = {"max_epochs": -1, "max_steps": 6, "val_check_interval": 2, "check_val_every_n_epoch": None}
    make_trainer(EpochTable(table=table, bar=terminal), **options).fit(timed, data(12), data(4))
    assert [line.split()[0] for line in lines_of(table)] == ["step", "2/6", "4/6", "6/6"]
    assert [line.split()[-2 if line.endswith("best") else -1] for line in lines_of(table)[1:]] == ["8", "8", "8"]
    assert [" ".join(bar.split()[:1]) for bar in terminal.bars[:2]] == ["step", "step"]
    assert "2/6" in terminal.bars[1]


def test_rate_is_that_of_the_first_step_of_the_line(timed, data, make_trainer):
    def configure(network):
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    timed.configure = configure
    table = io.StringIO()
    make_trainer(EpochTable(table=table), max_epochs=3).fit(timed, data(12), data(4))
    assert [line.split()[5] for line in lines_of(table)] == ["lr", "1", "0.1", "0.01"]


def test_without_validation_there_is_a_line_an_epoch(timed, data, make_trainer):
    table = io.StringIO()
    make_trainer(EpochTable(table=table), max_epochs=2, limit_val_batches=0).fit(timed, data(12), data(4))
    assert [line.split()[:5] for line in lines_of(table)[1:]] == [[f"{n}/2", "-", "-", "-", "-"] for n in (1, 2)]


def test_best_goes_on_from_a_resumed_run(timed, data, make_trainer, tmp_path, kept):
    timed.script = tuple({"val/loss": loss} for loss in (0.5, 0.75, 0.625, 0.25))
    make_trainer(EpochTable(table=io.StringIO()), LastCheckpoint(tmp_path), max_epochs=2).fit(timed, data(12), data(4))
    table = io.StringIO()
    trainer = make_trainer(EpochTable(table=table), LastCheckpoint(tmp_path), max_epochs=4)
    trainer.fit(timed, data(12), data(4), ckpt_path=kept(tmp_path, "last"))
    marked = [line.split()[0] for line in lines_of(table)[1:] if line.endswith("best")]
    assert marked == ["4/4"]
    assert [line.split()[0] for line in lines_of(table)] == ["epoch", "3/4", "4/4"]


def test_best_follows_the_monitor_and_its_direction(timed, data, make_trainer):
    timed.script = tuple({"val/err": err} for err in (0.5, 0.75, 0.625))
    table = io.StringIO()
    make_trainer(EpochTable("val/err", "max", table=table), max_epochs=3).fit(timed, data(12), data(4))
    assert [line.split()[0] for line in lines_of(table) if line.endswith("best")] == ["1/3", "2/3"]


def test_a_failure_leaves_a_clean_screen(timed, data, make_trainer):
    terminal = Terminal()

    def fails(batch, batch_idx):
        raise RuntimeError("no image")

    timed.validation_step = fails
    with pytest.raises(RuntimeError, match="no image"):
        make_trainer(EpochTable(table=terminal, bar=terminal), max_epochs=1).fit(timed, data(12), data(4))
    assert terminal.bars
    assert terminal.screen == [""]


def test_testing_and_predicting_show_a_bar_and_take_it_away(timed, data, make_trainer):
    terminal = Terminal()
    trainer = make_trainer(EpochTable(table=terminal, bar=terminal))
    trainer.test(timed, data(12), verbose=False)
    assert terminal.screen == [""]
    trainer.predict(timed, data(12))
    assert terminal.screen == [""]
    shown = [" ".join(bar.split()[::2]) for bar in terminal.bars]
    assert shown == [f"{what} {batch}/3" for what in ("testing", "predicting") for batch in (1, 2, 3)]


def test_print_goes_above_the_bar_and_silence_is_silence(timed, data, make_trainer, capsys):
    terminal = Terminal()
    table = EpochTable(table=terminal, bar=terminal)
    table._draw(("epoch 1", 0.5, "1/2"))
    table.print("a note")
    assert terminal.screen == [""]
    assert capsys.readouterr().out == "a note\n"
    table.disable()  # as on every process but the first
    make_trainer(table, max_epochs=1).fit(timed, data(12), data(4))
    assert terminal.screen == [""]


def test_dumb_terminals_get_no_bar(timed, data, make_trainer, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    make_trainer(EpochTable(table=io.StringIO(), bar=terminal), max_epochs=1).fit(timed, data(12), data(4))
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("columns", [0, 5, 20, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", None])
def test_bar_fits_the_terminal_and_its_encoding(columns, encoding):
    line = bar_line("epoch 12/200", 0.4, "140/352  loss 0.4321  1,840 images/s", columns=columns, encoding=encoding)
    assert len(line) <= max(columns - 1, 0)
    line.encode(encoding or "ascii")


def test_wide_numbers_stay_under_their_heads():
    metrics = {"train/loss": 123456.0, "train/err": 0.5, "val/loss": 1e-9, "val/err": 1.0}
    header, line = table_line("step", 64_000, 64_000, metrics, 1.234e-05, 7260.0, 123456.7, False)
    assert len(header) == len(line)
    assert line.split() == ["64,000/64,000", "1.23e+05", "0.5000", "0.0000", "1.0000", "1.23e-05", "2h01m", "123,457"]


@pytest.mark.parametrize(
    ("sec", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.7, "1h00m"),
        (7620, "2h07m"),
    ],
)
def test_durations_read_well(sec, text):
    assert duration(sec) == text


def test_images_of_a_batch_are_its_rows():
    images = torch.zeros(5, 1, 2, 2)
    for batch in (images, (images, torch.zeros(5)), [images], {"image": images}):
        assert num_images(batch) == 5
    assert num_images(None) == num_images([]) == num_images({}) == 0


def test_skipped_hooks_are_those_that_would_do_nothing(timed, data, make_trainer):
    class Counting(EpochTable):
        calls = 0

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.calls += 1

    table, plain, counting = io.StringIO(), io.StringIO(), Counting(table=io.StringIO())
    shortened = EpochTable(table=table)
    skip_unused_hooks([shortened, counting])
    assert shortened.on_train_batch_start is None
    assert callable(shortened.on_train_batch_end)
    make_trainer(shortened, max_epochs=2).fit(timed, data(12), data(4))
    make_trainer(EpochTable(table=plain), max_epochs=2).fit(timed, data(12), data(4))
    assert table.getvalue() == plain.getvalue()
    make_trainer(counting, max_epochs=2).fit(timed, data(12), data(4))
    assert counting.calls == 6
